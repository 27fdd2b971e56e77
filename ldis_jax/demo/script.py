"""What the page does in the browser beyond Gradio."""

from __future__ import annotations

_SCRIPT = """
<script>
(() => {
  // An editor sends its picture as a PNG without a look at the limit, and waits for ever where the server refuses it.
  // An empty file in its place gets to our functions, which say what is wrong.
  const send = window.fetch;
  window.fetch = (address, options) => {
    if (options?.body instanceof FormData) {
      const body = new FormData();
      for (const [key, value] of options.body) {
        body.append(key, value instanceof File && value.size > LIMIT ? new File([], value.name) : value);
      }
      options = {...options, body};
    }
    return send(address, options);
  };
  // An editor stays empty, without a word, where the browser cannot read a picture.
  const check = (event, files) => {
    const editor = event.target.closest?.("#prompt");
    if (!editor || !files?.length) return;
    const alert = document.querySelector("#prompt-alert");
    alert.textContent = "";
    createImageBitmap(files[0]).then((picture) => picture.close(), () => {
      alert.textContent = `${files[0].name}: not a picture that can be read; convert it to PNG or JPEG`;
    });
  };
  document.addEventListener("change", (event) => check(event, event.target.files), true);
  document.addEventListener("drop", (event) => check(event, event.dataTransfer?.files), true);
})();
</script>
"""


def head(upload_bytes: int) -> str:
    """HTML for the page's head: too large files never wait for ever, and what is no picture is named.

    Args:
        upload_bytes: the most that the server takes of one file.
    """
    return _SCRIPT.replace("LIMIT", str(upload_bytes))
