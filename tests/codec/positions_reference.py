"""The positions of a payload in plain loops, after docs/wire-format.md alone."""


class Bits:
    """Reads the sections of a body."""

    def __init__(self, data):
        self.data, self.at = bytes(data), 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self):
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def packed(self, count, width):
        """Numbers of `width` bits: planes of bytes, then a stream of the rest."""
        numbers = [0] * count
        for plane in range(width // 8):
            for i, byte in enumerate(self.take(count)):
                numbers[i] |= byte << 8 * plane
        rest = width % 8
        stream = stream_of_bits(self.take((count * rest + 7) // 8))
        for i in range(count):
            for j in range(rest):
                numbers[i] |= stream[i * rest + j] << (width // 8 * 8 + j)
        return numbers


def stream_of_bits(data):
    return [byte >> i & 1 for byte in data for i in range(8)]


def unary(data, count):
    numbers, zeros = [], 0
    for bit in stream_of_bits(data):
        if bit:
            numbers.append(zeros)
            zeros = 0
        else:
            zeros += 1
    assert len(numbers) == count
    return numbers


def block_table(bits, size):
    """Return kind, b, start, length and count of each block."""
    blocks, start = [], 0
    while start < size:
        head, length = bits.take(1)[0], bits.varint()
        kind = head & 7
        count = bits.varint() if kind >= 2 else 0
        blocks.append((kind, head >> 3, start, length, count))
        start += length
    return blocks


def positions_of(bits, size):
    """Return the entries kept, ascending."""
    blocks = block_table(bits, size)
    rice = [block for block in blocks if block[0] >= 3]
    unary_bytes = bits.varint() if rice else 0
    masks = {b[2]: bits.take((b[3] + 7) // 8) for b in blocks if b[0] == 2}
    high = unary(bits.take(unary_bytes), sum(block[4] for block in rice))
    gaps = {}
    for *_, block_start, _, count in rice:
        gaps[block_start], high = high[:count], high[count:]
    for width in sorted({block[1] for block in rice}):
        own = [block for block in rice if block[1] == width]
        low = bits.packed(sum(block[4] for block in own), width)
        for *_, block_start, _, count in own:
            part, low = low[:count], low[count:]
            gaps[block_start] = [
                h << width | bit for h, bit in zip(gaps[block_start], part, strict=True)
            ]
    positions = []
    for kind, _, block_start, length, _ in blocks:
        every = list(range(block_start, block_start + length))
        coded, place = [], block_start - 1
        for gap in gaps.get(block_start, []):
            place += gap + 1
            coded.append(place)
        match kind:
            case 1:
                positions += every
            case 2:
                mask = stream_of_bits(masks[block_start])
                positions += [i for i, kept in zip(every, mask, strict=False) if kept]
            case 3:
                positions += coded
            case 4:
                positions += sorted(set(every) - set(coded))
    return positions
