"""The page in a real browser, served by the real command."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldis_jax import LDISPipeline
from ldis_jax.demo.uploads import Limits
from ldis_jax.media.masks import read_mask
from ldis_jax.media.overlays import magnify

gradio = pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(server, browser):
    """The page; what it asks of other hosts is an error."""
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(90_000)  # of a busy machine
    elsewhere = []
    page.on("request", lambda r: r.url.startswith((server, "data:", "blob:")) or elsewhere.append(r.url))
    page.goto(server)
    page.wait_for_selector("#prompt input[type=file]", state="attached")
    yield page
    page.close()
    assert not elsewhere


def drop(page, where, *files):
    page.set_input_files(f"{where} input[type=file]", [str(file) for file in files])


def wait_for_error(page, text):
    page.get_by_text(text).first.wait_for()
    assert "Traceback" not in page.content()


def content(page, button):
    """What a download button gives."""
    page.wait_for_selector(f"{button}:visible")
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def stroke(page, editor):
    """Paints a line through the middle of an editor's image."""
    box = page.locator(f"{editor} canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=5)
    page.mouse.up()


@needs_chromium
def test_page_segments_an_image_and_gives_its_mask_to_download(page, pictures, micro_folder_ldisn):
    page.get_by_label("Steps").first.fill("2")
    drop(page, "#query", pictures["query"])
    drop(page, "#prompt", pictures["prompt"])
    drop(page, "#mask-file", pictures["mask"])
    page.get_by_text("mask.png").first.wait_for()
    page.wait_for_selector("#query img")
    page.wait_for_timeout(500)  # the editor says nowhere that its image is there
    page.click("#segment")
    name, mask = content(page, "#download")
    pipe = LDISPipeline.from_pretrained(micro_folder_ldisn)
    expected = pipe(pictures["query"], [(pictures["prompt"], pictures["mask"])], num_steps=2).mask
    assert name == "mask.png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mask))), 255 * expected)
    assert "object" in page.inner_text("#summary")


@needs_chromium
def test_page_examples_work_at_once(page):
    page.get_by_label("Steps").first.fill("2")
    page.get_by_role("button", name="One prompt").click()
    name, mask = content(page, "#download")
    assert name == "mask.png" and np.asarray(Image.open(io.BytesIO(mask))).shape == (256, 256)
    assert page.locator("#summary .legend").count() == page.locator("#prompts img").count() == 1


@needs_chromium
def test_page_gives_a_label_map_of_two_classes(page):
    page.get_by_label("Steps").first.fill("2")
    page.get_by_role("button", name="Two classes").click()
    name, labels = content(page, "#download")
    assert name == "label_map.png" and set(np.unique(np.asarray(Image.open(io.BytesIO(labels))))) <= {0, 1, 2}
    assert page.locator("#summary .legend").count() == page.locator("#prompts img").count() == 2
    assert "of the label that a pixel has been given" in page.inner_text("#scale")


@needs_chromium
def test_page_shows_mistakes_as_clear_messages(page, pictures, tmp_path):
    page.click("#segment")
    wait_for_error(page, "No query: drop a file of at most 0.2 MB")
    (tmp_path / "text.png").write_text("not an image")
    drop(page, "#query", tmp_path / "text.png")
    page.wait_for_selector("#query img", state="attached")
    page.click("#segment")
    wait_for_error(page, "query: not an image that is read here")
    page.reload()
    drop(page, "#query", pictures["query"])
    page.wait_for_selector("#query img")
    page.click("#segment")
    wait_for_error(page, "No prompt image: drop a file")
    drop(page, "#prompt", pictures["prompt"])
    page.wait_for_timeout(500)
    page.click("#add")
    wait_for_error(page, "Empty mask: paint over the object")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (300, 300, 3), np.uint8)).save(tmp_path / "large.png")
    drop(page, "#mask-file", tmp_path / "large.png")
    wait_for_error(page, "maximum allowed size of 204.8 Kb")  # 0.2 MB, as Gradio counts
    Image.new("RGB", (300, 300)).save(tmp_path / "wide.png")
    page.reload()
    drop(page, "#prompt", tmp_path / "wide.png")
    page.wait_for_timeout(500)
    page.click("#add")
    wait_for_error(page, "300x300 is more than the 0.07 megapixels")


@needs_chromium
def test_page_says_what_an_editor_cannot_take_and_does_not_wait(page, pictures, tmp_path):
    drop(page, "#query", pictures["query"])
    page.wait_for_selector("#query img")
    (tmp_path / "text.png").write_text("not an image")
    drop(page, "#prompt", tmp_path / "text.png")
    page.locator("#prompt-alert").get_by_text("text.png: not an image that can be read").wait_for()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (260, 260, 3), np.uint8)).save(tmp_path / "photo.jpg", quality=90)
    drop(page, "#prompt", tmp_path / "photo.jpg")  # within the limit, but the editor sends a PNG that is not
    page.wait_for_timeout(500)
    assert not page.locator("#prompt-alert").is_visible()
    page.click("#segment")
    wait_for_error(page, "No prompt image: drop a file of at most 0.2 MB (as a PNG")


@needs_chromium
def test_page_shows_a_mask_file_as_it_was_read(page, pictures):
    drop(page, "#mask-file", pictures["mask"])
    page.wait_for_selector("#mask-read img")
    shown = page.request.get(page.locator("#mask-read img").get_attribute("src")).body()
    expected = 255 * magnify(read_mask(pictures["mask"]))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(shown)).convert("L")), expected)
    page.locator("#mask-file").get_by_label("Clear").click()
    page.wait_for_selector("#mask-read", state="hidden")


@needs_chromium
def test_page_lets_one_label_of_a_label_map_be_chosen(page, pictures, tmp_path, micro_folder_ldisn):
    labels = np.zeros((40, 30), np.uint8)
    labels[10:30, 5:20], labels[30:, 15:] = 3, 9
    Image.fromarray(labels).save(tmp_path / "labels.png")
    page.get_by_label("Steps").first.fill("2")
    drop(page, "#query", pictures["query"])
    drop(page, "#prompt", pictures["prompt"])
    drop(page, "#mask-file", tmp_path / "labels.png")
    page.wait_for_selector("#label label")
    page.wait_for_selector("#query img")
    assert page.locator("#label label").all_inner_texts() == ["3 (25.0 %)", "9 (12.5 %)"]
    page.click("#segment")
    wait_for_error(page, "mask file: labels 3, 9; choose below it which is the object")
    page.locator("#label label").nth(1).click()
    page.click("#segment")
    _, mask = content(page, "#download")
    pipe = LDISPipeline.from_pretrained(micro_folder_ldisn)
    expected = pipe(pictures["query"], [(pictures["prompt"], labels)], label=9, num_steps=2).mask
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(mask))), 255 * expected)
    page.locator("#mask-file").get_by_label("Clear").click()
    page.wait_for_selector("#label", state="hidden")


@needs_chromium
def test_page_segments_a_video_by_a_stroke_on_its_first_frame(page, clip):
    page.get_by_role("tab", name="Video").click()
    drop(page, "#video", clip)
    page.wait_for_selector("#video video")
    page.wait_for_timeout(1000)
    stroke(page, "#first-frame")
    page.click("#segment-video")
    _, archive = content(page, "#masks")
    with zipfile.ZipFile(io.BytesIO(archive)) as masks:
        first = np.asarray(Image.open(io.BytesIO(masks.read("00000.png"))))
        assert len(masks.namelist()) == 6
    assert first.shape == (32, 48) and set(np.unique(first)) == {0, 1}
    assert page.inner_text("#video-status") == "6 of 6 frames"
    assert page.locator("#overlay video").count() == 1


@pytest.mark.parametrize("knows", ["painted scenes only; photographs need another model", ""])
def test_page_says_what_the_model_knows(monkeypatch, micro_folder, knows):
    from ldis_jax.demo import __main__ as command
    from ldis_jax.demo import page as page_module

    pipe, built = LDISPipeline.from_pretrained(micro_folder), []
    monkeypatch.setattr(LDISPipeline, "knows", knows)
    monkeypatch.setattr(LDISPipeline, "from_pretrained", lambda *_, **__: pipe)
    monkeypatch.setattr(page_module, "serve", lambda server, access: built.append(page_module.build(server)))
    monkeypatch.setattr("sys.argv", ["demo", "--model=mine", "--port=0"])
    monkeypatch.setattr("os.environ", dict(os.environ))
    command.main()
    texts = [block.value for block in built[0].blocks.values() if isinstance(block, gradio.Markdown)]
    assert sum(f"The model knows {knows}." in text for text in texts) == bool(knows)


def test_page_hides_options_of_ldisn_for_ldis1(micro_folder, tmp_path):
    from ldis_jax.demo.page import build
    from ldis_jax.demo.widgets import Server

    page = build(Server(LDISPipeline.from_pretrained(micro_folder), Limits(), tmp_path))
    kinds = {type(block).__name__ for block in page.blocks.values() if getattr(block, "visible", True)}
    assert "ImageEditor" in kinds and not {"Slider", "Radio", "Number"} & kinds


def test_server_clear_errors_names_an_upload_without_its_folder(tmp_path):
    from ldis_jax.demo import videos
    from ldis_jax.demo.widgets import Server

    (tmp_path / "0a1b").mkdir()
    (tmp_path / "0a1b" / "my text.mp4").write_text("not a video")
    with pytest.raises(gradio.Error) as caught, Server(None, Limits(), tmp_path).clear_errors():
        videos.first_frame(str(tmp_path / "0a1b" / "my text.mp4"), Limits())
    assert caught.value.message.startswith("my text.mp4: not a video that FFmpeg can read")
    assert str(tmp_path) not in caught.value.message
