"""The machine: devices, hosts, memory, signals."""
