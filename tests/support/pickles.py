"""Pickles of a few bytes that would take gigabytes, or for ever."""

import struct

MEMO = b"\x80\x02Nr\xff\xff\xff\x1f."  # None, kept under a number to which the memo would grow
LONG_BYTES = b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"."
BYTEARRAY = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."


def doubled(times):
    """A tuple that holds the one before twice, and that its own before; on top of the stack and in the memo."""
    parts = (b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(times))
    return b")q\x00" + b"".join(b"0" + part for part in parts)


HASHES = b"\x80\x02" + doubled(50) + b"0}h\x32K\x01s."  # such a tuple as a key
