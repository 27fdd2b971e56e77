"""Writes the records of a split to ArrayRecord files that TFDS can read."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from ldis_jax.errors import TryAgainError
from ldis_jax.support.files import StrPath, unwritable

_SHARD_BYTES = 256 << 20


class ShardWriter:
    """Streams examples to a file until it is large enough for the next one, and hashes them.

    TFDS's own writer keeps up to 1 GB in memory and, beyond that, needs TensorFlow for its temporary files.
    """

    def __init__(self, folder: StrPath, name: str, split: str, features: Any):
        """Files are ``folder/name-split.array_record-00000`` and on; examples have the TFDS ``features``."""
        self._features, self._split = features, split
        self._template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=name,
            split=split,
            filetype_suffix="array_record",
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
        )
        self._lengths: list[int] = []
        self._bytes, self._left, self._path = 0, 0, ""
        self._writer: Any = None
        self._hash = hashlib.sha256()

    @property
    def hash(self) -> str:
        """16 hex digits of the SHA-256 of all examples so far, in their order."""
        return self._hash.hexdigest()[:16]

    def write(self, example: dict[str, Any]) -> None:
        """Appends one example, of bytes, strings and integers.

        Raises:
            LDISError: the disk is full, for example.
        """
        record = self._features.serialize_example(self._features.encode_example(example))
        with self._writing():
            if self._left <= 0:
                self._close_file()
                path = self._template.sharded_filepath(shard_index=len(self._lengths), num_shards=None)
                self._path, self._left = os.fspath(path), _SHARD_BYTES
                # One record a group makes access random; JPEG and PNG would not shrink.
                self._writer = ArrayRecordWriter(self._path, "group_size:1,uncompressed")
                self._lengths.append(0)
            self._writer.write(record)
        self._lengths[-1] += 1
        self._bytes += len(record)
        self._left -= len(record)
        for value in example.values():
            data = value if isinstance(value, bytes) else str(value).encode()
            self._hash.update(len(data).to_bytes(8, "little") + data)

    def close(self) -> tfds.core.SplitInfo:
        """Finishes the last file and says what was written.

        Raises:
            LDISError: a file does not hold what was written to it.
        """
        with self._writing():
            self._close_file()
        return tfds.core.SplitInfo(
            name=self._split, shard_lengths=self._lengths, num_bytes=self._bytes, filename_template=self._template
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise unwritable(self._path, error) from None

    def _close_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        reader = ArrayRecordReader(self._path)
        if reader.num_records() != self._lengths[-1]:
            raise TryAgainError(
                f"{self._path}: holds {reader.num_records()} of {self._lengths[-1]} records; is the disk full?"
            )
        reader.close()
