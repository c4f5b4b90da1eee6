"""Which way traffic took, from the words of a library or the counters of a host. Pure."""

import re

# Kinds of network that an interface or a library's own word stands for. IPoIB is TCP, whatever it runs on.
_FAMILIES = {
    "ib": re.compile(r"ib|roce|verbs|rdma|net/ib.*|mlx\d+_\d+.*|rocep?.*|ibp\d+s.*", re.I),
    "efa": re.compile(r"efa.*|rdmap.*", re.I),
    "tcp": re.compile(r"tcp|socket|net/socket.*|(eth|en|bond|veth|team|wl|ib\d|hsn)\w*", re.I),
    "shm": re.compile(r"shm|shared memory|vader|sm|lo", re.I),
}


def share(seen: str, wanted: str) -> float:
    """Which share of `tcp eth0 98 %, loopback lo 2 %` went through `wanted`: an interface, or a kind of network."""
    family = _FAMILIES.get(wanted.lower())
    total = 0.0
    for words, percent in re.findall(r"([^,]*?)\s+([0-9.]+)\s*%", seen) or [(seen, "100")]:
        kind, *rest = words.split() or [""]
        device = " ".join(rest) or kind
        own = wanted in (device, device.partition(":")[0])  # an adapter is meant with all its ports
        if own or kind.lower() == wanted.lower() or (not rest and family and family.fullmatch(device)):
            total += float(percent) / 100
    return total
