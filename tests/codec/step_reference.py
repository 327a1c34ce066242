"""The format ``step`` decoded in plain loops, after docs/wire-format.md alone."""

import struct
import zlib

import numpy as np

from .positions_reference import Bits, positions_of, stream_of_bits, unary


def compact_table(bits):
    """Frequencies of a compact table, after docs/wire-format.md."""
    size = bits.take(1)[0]
    codes = bits.packed(size, 6)
    quarters = (16384, 19484, 23170, 27554)
    weights = [quarters[(q - 1) % 4] << (q - 1) // 4 if q else 0 for q in codes]
    seen = sum(weight > 0 for weight in weights)
    free = 2**14 - seen
    scaled = [w * free // sum(weights) + (w > 0) for w in weights]
    rest = 2**14 - sum(scaled)
    for i in sorted(range(size), key=lambda i: -weights[i])[:rest]:
        scaled[i] += 1
    return scaled


def symbols(data, count, tables, which):
    """Interleaved lanes of 32 bits, words of 16."""
    lanes = 1
    while lanes * 2 * 1024 <= count:
        lanes *= 2
    lanes = min(lanes, 2048) if lanes >= 16 else 1
    if not count:
        return []
    states = list(struct.unpack(f"<{lanes}I", data[: 4 * lanes]))
    words = list(struct.unpack(f"<{(len(data) - 4 * lanes) // 2}H", data[4 * lanes :]))
    words.reverse()
    decoded = []
    for i in range(count):
        table, lane = tables[which[i]], i % lanes
        slot, start, symbol = states[lane] % 2**14, 0, 0
        while slot >= start + table[symbol]:
            start += table[symbol]
            symbol += 1
        decoded.append(symbol)
        states[lane] = table[symbol] * (states[lane] >> 14) + slot - start
        if states[lane] < 2**16:
            states[lane] = states[lane] << 16 | words.pop()
    assert not words
    assert all(state == 2**16 for state in states)
    return decoded


def low_bits(bits, symbols):
    levels = list(symbols)
    for e in range(4, 24):
        own = [i for i, symbol in enumerate(symbols) if symbol == 12 + e]
        for i, low in zip(own, bits.packed(len(own), e), strict=True):
            levels[i] = 2**e + low
    return levels


def by_context(bits, size):
    """Return positions and levels in the order of the code."""
    text = Bits(zlib.decompress(bits.take(bits.varint()), -15))
    tensors, start = [], 0
    while text.at < len(text.data):
        first, second = text.varint(), text.varint()
        tensors.append((start, first, second))
        start += first * second
    assert start == size
    priors = bits.packed(len(tensors), 5)
    mask = struct.unpack("<H", bits.take(2))[0]
    classes = []
    for number in range(16):
        if mask >> number & 1:
            flags, count = bits.take(1)[0], bits.varint()
            classes.append((number, flags & 31, bool(flags & 32), flags & 64, count))
    tables = [compact_table(bits)]
    tables += [compact_table(bits) for *_, begins, _ in classes if begins]
    ranks = ranks_of(bits, classes)
    rows = sum(min(t[1:]) for t, prior in zip(tensors, priors, strict=True) if prior)
    which, table = [0] * rows, 0
    for _, _, _, begins, count in classes:
        table += bool(begins)
        which += [table] * count
    coded = symbols(bits.take(bits.varint()), len(which), tables, which)
    factors, coded = coded[:rows], coded[rows:]
    by_class = {}
    for number, _, dense, _, count in classes:
        own, coded = coded[:count], coded[count:]
        if dense:
            ranks[number] = [i for i, symbol in enumerate(own) if symbol]
            own = [symbol for symbol in own if symbol]
        by_class[number] = own
    every = [symbol for number in sorted(by_class) for symbol in by_class[number]]
    levels = low_bits(bits, every)
    for number in sorted(by_class):
        own = levels[: len(by_class[number])]
        levels = levels[len(own) :]
        by_class[number] = dict(zip(ranks[number], own, strict=True))
    return place_all(tensors, priors, factors, by_class)


def ranks_of(bits, classes):
    """Return which entries of the sparse classes are not zero."""
    data = bits.take(bits.varint())
    gaps = unary(data, sum(c[4] for c in classes if not c[2]))
    ranks = {}
    for number, width, dense, _, count in classes:
        if not dense:
            own = gaps[:count]
            gaps = gaps[count:]
            place, ranks[number] = -1, []
            for high, low in zip(own, bits.packed(count, width), strict=True):
                place += (high << width | low) + 1
                ranks[number].append(place)
    return ranks


def place_all(tensors, priors, factors, by_class):
    """Walk through the stages; return positions and levels, class by class."""
    active = []
    for (start, first, second), prior in zip(tensors, priors, strict=True):
        if not prior:
            continue
        rows, columns = min(first, second), max(first, second)
        i = prior - 1
        known = [(2 + i % 2) << i // 2] * columns
        before, ratios = 0, []
        for factor in factors[:rows]:
            own = 1 << factor
            ratios.append((own << 20) // (before + 128))
            before += own
        factors = factors[rows:]
        active.append((rows, columns, first > second, start, known, ratios))
    active.sort(key=lambda tensor: -tensor[0])
    return walk(active, by_class)


def walk(active, by_class):
    """Return the entries that the classes have, class by class."""
    passed = dict.fromkeys(range(16), 0)
    found = {number: [] for number in by_class}
    for stage in range(active[0][0] if active else 0):
        learned = []
        for rows, columns, turned, start, known, ratios in active:
            if rows <= stage:
                continue
            for column in range(columns):
                expected = known[column] * ratios[stage] >> 20
                number = min(expected, 2**15 - 1).bit_length()
                level = by_class.get(number, {}).get(passed[number], 0)
                passed[number] += 1
                if level:
                    within = (
                        column * rows + stage if turned else stage * columns + column
                    )
                    found[number].append((start + within, level))
                    learned.append((known, column, level))
        for known, column, level in learned:
            known[column] += min(level, 4) << 12
    return [entry for number in sorted(found) for entry in found[number]]


def by_block(bits, size):
    """Return positions and levels, ascending."""
    positions = positions_of(bits, size)
    table, count = compact_table(bits), len(positions)
    coded = symbols(bits.take(bits.varint()), count, [table], [0] * count)
    return list(zip(positions, low_bits(bits, coded), strict=True))


def decode_step(body, size):
    """Return the dense float32 vector of a body."""
    dense = np.zeros(size, np.float32)
    if not body:
        return dense
    bits = Bits(body)
    step, centres, coding = struct.unpack("<f3sB", bits.take(8))
    entries = (by_block, by_context)[coding](bits, size)
    signs = stream_of_bits(bits.take((len(entries) + 7) // 8))
    assert bits.at == len(body)
    for (position, level), minus in zip(entries, signs, strict=False):
        size_ = level + (centres[level - 1] - 128) / 256 if level <= 3 else level
        with np.errstate(over="ignore"):
            value = np.float32(size_) * np.float32(step)
        value = min(value, np.finfo(np.float32).max)
        dense[position] = -value if minus else value
    return dense
