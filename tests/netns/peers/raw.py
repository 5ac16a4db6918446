"""What no library would send, as HTTP/1 and HTTP/2 in bytes. Prints a JSON object: what came of each case.

raw.py http1 HOST PORT
raw.py http2 HOST PORT
raw.py slow HOST PORT COUNT
"""

import json
import socket
import struct
import sys

# Far longer than anything here takes.
PATIENCE = 30
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"


def dial(host, port):
    return socket.create_connection((host, port), PATIENCE)


def say(host, port, said):
    """Statuses of all answers until the connection ends; the caller's bytes must make it end."""
    with dial(host, port) as stream:
        try:
            stream.sendall(said)
        except OSError:
            pass
        heard = rest(stream)
    statuses = [int(part[2:5]) for part in heard.decode("latin-1").split("HTTP/1.")[1:] if part[2:5].isdigit()]
    return {"statuses": statuses, "smuggled": "/smuggled" in heard.decode("latin-1")}


def rest(stream):
    heard = b""
    try:
        while more := stream.recv(65536):
            heard += more
    except TimeoutError:
        return heard + b"HTTP/1.1 000 still open"
    except OSError:
        pass
    return heard


def post(fields, body=b"", path=b"/echo", version=b"HTTP/1.1"):
    return b"POST " + path + b" " + version + b"\r\nhost: a\r\n" + fields + b"\r\n" + body


def http1_cases():
    chunked = b"transfer-encoding: chunked\r\n"
    get = b"GET /whoami HTTP/1.1\r\n"
    return {
        "length and chunks": post(b"content-length: 4\r\n" + chunked, b"0\r\n\r\n" + SMUGGLED),
        "chunks and length": post(chunked + b"content-length: 4\r\n", b"0\r\n\r\n" + SMUGGLED),
        "two lengths": post(b"content-length: 0\r\ncontent-length: 37\r\n", SMUGGLED),
        "list of lengths": post(b"content-length: 0, 37\r\n", SMUGGLED),
        "signed length": post(b"content-length: +3\r\n", b"abc" + SMUGGLED),
        "huge length": post(b"content-length: 99999999999999999999\r\n", SMUGGLED),
        "unknown coding": post(b"transfer-encoding: xchunked\r\n", b"0\r\n\r\n" + SMUGGLED),
        "coding before chunks": post(b"transfer-encoding: gzip, chunked\r\n", b"0\r\n\r\n" + SMUGGLED),
        "coding after chunks": post(b"transfer-encoding: chunked, identity\r\n", b"0\r\n\r\n" + SMUGGLED),
        "chunks twice": post(chunked + chunked, b"0\r\n\r\n" + SMUGGLED),
        "chunks in 1.0": post(chunked, b"0\r\n\r\n" + SMUGGLED, version=b"HTTP/1.0"),
        "chunk size too long": post(chunked, b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n" + SMUGGLED),
        "chunk size no number": post(chunked, b"0x3\r\nabc\r\n0\r\n\r\n" + SMUGGLED),
        "chunk longer than said": post(chunked, b"3\r\nabcd\r\n0\r\n\r\n" + SMUGGLED),
        "chunk with bare lf": post(chunked, b"3\nabc\r\n0\r\n\r\n" + SMUGGLED),
        "endless chunk extension": post(chunked, b"3;" + b"x" * 100_000),
        "endless trailers": post(chunked, b"0\r\n" + b"x: y\r\n" * 50_000),
        "folded line": post(b"x: 1\r\n content-length: 37\r\n", SMUGGLED),
        "space before colon": post(b"content-length : 37\r\n", SMUGGLED),
        "bare cr in a value": post(b"x: a\rcontent-length: 37\r\n", SMUGGLED),
        "nul in a value": post(b"x: a\0b\r\n"),
        "nameless field": post(b": x\r\n"),
        "two hosts": post(b"host: b\r\n", SMUGGLED),
        "no host": get + b"connection: close\r\n\r\n",
        "another host in the target": b"GET http://b/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        "http/0.9": b"GET /whoami\r\n",
        "http/2.0 in a line": b"GET /whoami HTTP/2.0\r\nhost: a\r\n\r\n",
        "no http": b"SSH-2.0-OpenSSH_9.9\r\n",
        "space in the target": b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
        "long field": get + b"host: a\r\nx: " + b"x" * 100_000 + b"\r\n\r\n",
        "many fields": get + b"host: a\r\n" + b"x: y\r\n" * 5_000 + b"\r\n",
        "long target": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        "bare lf": b"GET /whoami HTTP/1.1\nhost: a\nconnection: close\n\n",
        "h2c upgrade": get + b"host: a\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
    }


# HTTP/2 (RFC 9113): frames by hand.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, bits, first):
    """HPACK (RFC 7541, section 5.1)."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    out, value = bytes([first | most]), value - most
    while value >= 128:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


def text(value):
    return integer(len(value), 7, 0) + value


def field(name, value, indexed=False):
    return bytes([0x40 if indexed else 0]) + text(name) + text(value)


def request(path=b"/whoami", method=b"GET", more=b""):
    pseudo = field(b":method", method) + field(b":scheme", b"http") + field(b":path", path) + field(b":authority", b"a")
    return pseudo + more


class Http2:
    """A connection whose answers are read as they come; sending ends when the server ends it or takes no more."""

    def __init__(self, host, port, settings=b""):
        self.stream = dial(host, port)
        self.stream.setblocking(False)
        self.heard, self.out, self.ended = b"", b"", False
        self.statuses, self.resets, self.goaway, self.sent = [], [], None, 0
        self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def send(self, data):
        """False when it takes no more."""
        import select

        data = memoryview(data)
        while data and not self.ended:
            readable, writable, _ = select.select([self.stream], [self.stream], [], 1)
            if readable:
                self.read()
            if not readable and not writable:
                return False
            if writable and not self.ended:
                try:
                    count = self.stream.send(data)
                    self.sent += count
                    data = data[count:]
                except BlockingIOError:
                    pass
                except OSError:
                    self.ended = True
        return not self.ended

    def read(self):
        try:
            more = self.stream.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        self.ended |= not more
        self.heard += more
        while len(self.heard) >= 9:
            size = int.from_bytes(self.heard[:3], "big")
            if len(self.heard) < 9 + size:
                break
            kind, flags, stream = self.heard[3], self.heard[4], int.from_bytes(self.heard[5:9], "big")
            payload, self.heard = self.heard[9 : 9 + size], self.heard[9 + size :]
            if kind == HEADERS and payload:
                self.statuses.append(status(payload))
            elif kind == RST:
                self.resets.append(int.from_bytes(payload, "big"))
            elif kind == GOAWAY:
                self.goaway = int.from_bytes(payload[4:8], "big")
            elif kind == SETTINGS and not flags:
                self.out += frame(SETTINGS, 1, 0)

    def until(self, done):
        """Reads until it is done or the connection ends."""
        import select
        import time

        end = time.monotonic() + PATIENCE
        while not self.ended and not done(self) and time.monotonic() < end:
            if select.select([self.stream], [], [], 1)[0]:
                self.read()
        return self

    def found(self):
        self.stream.close()
        return {"statuses": self.statuses, "resets": self.resets, "goaway": self.goaway, "ended": self.ended, "sent": self.sent}


def status(block):
    """Of a block that begins with :status, indexed or with Huffman's digits or plain ones."""
    known = {0x88: 200, 0x89: 204, 0x8A: 206, 0x8B: 304, 0x8C: 400, 0x8D: 404, 0x8E: 500}
    while block and block[0] & 0xE0 == 0x20:
        block = block[1:]
    if block and block[0] in known:
        return known[block[0]]
    if len(block) > 4 and block[1] == 3:
        return int(block[2:5])
    if len(block) > 3 and block[1] & 0x80:
        codes = {"00000": "0", "00001": "1", "00010": "2", "011001": "3", "011010": "4", "011011": "5", "011100": "6", "011101": "7"}
        bits, out = "".join(f"{byte:08b}" for byte in block[2 : 2 + (block[1] & 0x7F)]), ""
        while len(out) < 3:
            size = next((size for size in (5, 6) if bits[:size] in codes), None)
            if size is None:
                return -1
            out, bits = out + codes[bits[:size]], bits[size:]
        return int(out)
    return -1


def ask(connection, stream, block, flags=END_STREAM | END_HEADERS):
    return connection.send(frame(HEADERS, flags, stream, block))


def answered(connection):
    return connection.statuses or connection.resets or connection.goaway is not None


def bomb(host, port):
    """Four bytes that decode to four thousand, ten thousand times."""
    connection = Http2(host, port)
    ask(connection, 1, request(more=field(b"x-big", b"b" * 4_000, indexed=True)))
    connection.until(answered)
    connection.statuses.clear()
    # 62: the newest entry of the dynamic table.
    ask(connection, 3, request(more=bytes([0x80 | 62]) * 10_000))
    return connection.until(answered).found()


def crumbs(host, port):
    connection = Http2(host, port)
    ask(connection, 1, request(more=field(b"cookie", b"a=b", indexed=True)))
    connection.until(answered)
    connection.statuses.clear()
    ask(connection, 3, request(more=bytes([0x80 | 62]) * 16_000))
    return connection.until(answered).found()


def rapid_reset(host, port):
    connection = Http2(host, port)
    for batch in range(0, 20_000, 100):
        frames = b"".join(
            frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, request(b"/never")) + frame(RST, 0, 2 * number + 1, b"\0\0\0\x08")
            for number in range(batch, batch + 100)
        )
        if not connection.send(frames):
            break
    return connection.until(lambda connection: connection.goaway is not None).found() if not connection.ended else connection.found()


def continuations(host, port):
    connection = Http2(host, port)
    connection.send(frame(HEADERS, END_STREAM, 1, request()))
    more = field(b"x", b"y" * 1_000)
    for _ in range(20_000):
        if not connection.send(frame(CONTINUATION, 0, 1, more)):
            break
    return connection.until(answered).found()


def empty_continuations(host, port):
    connection = Http2(host, port)
    connection.send(frame(HEADERS, END_STREAM, 1, request()))
    for _ in range(500):
        if not connection.send(frame(CONTINUATION, 0, 1) * 1_000):
            break
    return connection.found()


def flood(kind, payload, unread=False, stream=0):
    def run(host, port):
        connection = Http2(host, port)
        if stream:
            ask(connection, stream, request(b"/echo", b"POST"), END_HEADERS)
        if unread:
            connection.read = lambda: None
        sent = connection.sent
        for _ in range(200):
            if not connection.send(frame(kind, 0, stream, payload) * 1_000):
                break
        return connection.found() | {"flooded": connection.sent - sent}

    return run


def zero_window(host, port):
    """Hundred answers that may not be sent."""
    connection = Http2(host, port, settings=struct.pack(">HI", 4, 0))
    for number in range(100):
        ask(connection, 2 * number + 1, request(b"/big"))
    return connection.until(lambda connection: len(connection.statuses) >= 100).found()


def malformed(*fields):
    def run(host, port):
        connection = Http2(host, port)
        ask(connection, 1, request(more=b"".join(field(*each) for each in fields)))
        return connection.until(answered).found()

    return run


HTTP2 = {
    "well formed": malformed((b"x", b"y")),
    "field of HTTP/1 connections": malformed((b"connection", b"close")),
    "chunks": malformed((b"transfer-encoding", b"chunked")),
    "capital letters": malformed((b"X-Big", b"y")),
    "line break in a value": malformed((b"x", b"a\r\nhost: b")),
    "pseudo field last": malformed((b":path", b"/smuggled")),
    "another host": malformed((b"host", b"b")),
    "length of another body": malformed((b"content-length", b"7")),
    "hpack bomb": bomb,
    "cookie crumbs": crumbs,
    "rapid reset": rapid_reset,
    "continuations": continuations,
    "empty continuations": empty_continuations,
    "settings": flood(SETTINGS, struct.pack(">HI", 3, 100)),
    "settings unread": flood(SETTINGS, struct.pack(">HI", 3, 100), unread=True),
    "pings": flood(PING, b"12345678"),
    "pings unread": flood(PING, b"12345678", unread=True),
    "priorities": flood(PRIORITY, b"\0\0\0\0\x10", stream=1),
    "empty data": flood(DATA, b"", stream=1),
    "zero window": zero_window,
}


def slow(host, port, count):
    """Many at once, none of which comes to its end: of heads, of a second head, of bodies, of HTTP/2's blocks."""
    begun = {
        "head": [b"GET /whoami HTTP/1.1\r\nhost: a\r\nx: "],
        "method": [b"GE"],
        "second head": [b"GET /whoami HTTP/1.1\r\nhost: a\r\n\r\n", b"GET /who"],
        "body": [post(b"content-length: 10\r\n", b"x")],
        "chunks": [post(b"transfer-encoding: chunked\r\n", b"1\r\nx\r\n")],
        "http/2": [PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_STREAM, 1, request())],
    }
    streams = {name: [dial(host, port) for _ in range(count)] for name in begun}
    for name, parts in begun.items():
        for stream in streams[name]:
            stream.sendall(parts[0])
            for part in parts[1:]:
                head = b""
                while b"}\n" not in head:
                    head += stream.recv(65536)
                stream.sendall(part)
    found = {}
    for name, all_of_it in streams.items():
        found[name] = sorted({rest(stream)[9:12].decode("latin-1") if name != "http/2" else str(b"still open" in rest(stream)) for stream in all_of_it})
    return found


def main():
    what, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if what == "http1":
        found = {name: say(host, port, said) for name, said in http1_cases().items()}
    elif what == "http2":
        found = {name: case(host, port) for name, case in HTTP2.items()}
    else:
        found = slow(host, port, int(sys.argv[4]))
    print(json.dumps(found))


main()
