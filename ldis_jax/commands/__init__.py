"""The work behind the commands, without their flags."""
