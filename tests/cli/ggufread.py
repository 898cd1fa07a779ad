"""A small GGUF reader of the tests' own: metadata, and every tensor as (type, shape, bytes)."""
import struct

SCALAR = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# elements, bytes of F32, F16, Q4_0, Q5_0, Q8_0, Q4_K, Q6_K, BF16
BLOCK = {0: (1, 4), 1: (1, 2), 2: (32, 18), 6: (32, 22), 8: (32, 34), 12: (256, 144), 14: (256, 210), 30: (1, 2)}


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, fmt):
        v = struct.unpack_from("<" + fmt, self.data, self.at)[0]
        self.at += struct.calcsize("<" + fmt)
        return v

    def text(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at].decode("utf-8", "surrogateescape")

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, n = self.take("I"), self.take("Q")
            return [self.value(kind) for _ in range(n)]
        return self.take(SCALAR[kind])


def read_gguf(path):
    r = Reader(path.read_bytes())
    assert r.data[:4] == b"GGUF"
    r.at = 4
    version, n_tensor, n_kv = r.take("I"), r.take("Q"), r.take("Q")
    assert version == 3
    kv = {}
    for _ in range(n_kv):
        key = r.text()
        kv[key] = r.value(r.take("I"))
    infos = []
    for _ in range(n_tensor):
        name, n_dim = r.text(), r.take("I")
        shape = [r.take("Q") for _ in range(n_dim)]
        infos.append((name, shape, r.take("I"), r.take("Q")))
    align = kv.get("general.alignment", 32)
    base = (r.at + align - 1) // align * align
    tensors = {}
    for name, shape, kind, offset in infos:
        n = 1
        for d in shape:
            n *= d
        per, size = BLOCK[kind]
        tensors[name] = (kind, shape, r.data[base + offset:base + offset + n // per * size])
    return kv, tensors
