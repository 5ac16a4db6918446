"""Messages in forms that few clients send, to a server that answers as `http-peer` does. Prints a JSON object: what came of each.

forms.py HOST PORT
"""

import json
import select
import socket
import struct
import sys
import time

# Far longer than anything here takes.
PATIENCE = 30


class Http1:
    def __init__(self, host, port):
        self.stream = socket.create_connection((host, port), PATIENCE)
        self.heard = b""

    def say(self, data):
        self.stream.sendall(data)

    def until(self, mark):
        """What is heard up to and with `mark`; all of it where the connection ends before."""
        while mark not in self.heard:
            more = self.stream.recv(65536)
            if not more:
                break
            self.heard += more
        at = self.heard.find(mark)
        at = len(self.heard) if at < 0 else at + len(mark)
        said, self.heard = self.heard[:at], self.heard[at:]
        return said

    def head(self):
        """A status line's code and the fields."""
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(" ")[1]), fields

    def body(self, fields):
        """A whole body and its trailers."""
        if "content-length" in fields:
            size = int(fields["content-length"])
            while len(self.heard) < size:
                self.heard += self.stream.recv(65536)
            said, self.heard = self.heard[:size], self.heard[size:]
            return said.decode("latin-1"), {}
        body = b""
        while size := int(self.until(b"\r\n").split(b";")[0], 16):
            while len(self.heard) < size + 2:
                self.heard += self.stream.recv(65536)
            body, self.heard = body + self.heard[:size], self.heard[size + 2 :]
        trailers = []
        while (line := self.until(b"\r\n")) != b"\r\n":
            trailers.append(line.decode("latin-1").strip().lower())
        return body.decode("latin-1"), trailers


def post(path, fields):
    return f"POST {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n".encode()


def expect_continue(host, port):
    """The word to go on comes once, before the body is sent, and then the answer."""
    connection = Http1(host, port)
    connection.say(post("/echo", "expect: 100-continue\r\ncontent-length: 5\r\n"))
    first, _ = connection.head()
    connection.say(b"hello")
    second, fields = connection.head()
    return [first, second, connection.body(fields)[0]]


def expect_is_not_passed_on(host, port):
    connection = Http1(host, port)
    connection.say(post("/whoami", "expect: 100-continue\r\ncontent-length: 2\r\n") + b"ok")
    status, fields = connection.head()
    if status == 100:
        status, fields = connection.head()
    return [status, "expect" in json.loads(connection.body(fields)[0])["fields"]]


def trailers_both_ways(host, port):
    connection = Http1(host, port)
    said = post("/echo", "te: trailers\r\nconnection: te\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n")
    connection.say(said + b"3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n")
    status, fields = connection.head()
    return [status, *connection.body(fields)]


def answers_without_a_body(host, port):
    """One connection for all: whatever is taken for a body would be in the way of the next answer."""
    connection = Http1(host, port)
    found = []
    for method, path in [("HEAD", "/whoami"), ("GET", "/status/204"), ("GET", "/status/304"), ("HEAD", "/status/204"), ("HEAD", "/echo")]:
        connection.say(f"{method} {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        found.append(connection.head()[0])
    connection.say(b"GET /uploads HTTP/1.1\r\nhost: a\r\n\r\n")
    status, fields = connection.head()
    return [*found, status, connection.body(fields)[0].isdigit()]


def broken_uploads(host, port):
    """None of them may look whole to the server: chunks without the last one, a length that is not kept."""
    before = uploads(host, port)
    for fields in ["transfer-encoding: chunked\r\n", "content-length: 100\r\n"]:
        for how in ["end", "reset"]:
            connection = Http1(host, port)
            connection.say(post("/echo", fields) + b"3\r\nabc\r\n")
            time.sleep(0.1)
            if how == "reset":
                connection.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.stream.close()
    for code in [0, 2, 8]:
        connection = Http2(host, port)
        connection.say(frame(HEADERS, END_HEADERS, 1, request("/echo", "POST")) + frame(DATA, 0, 1, b"abc"))
        time.sleep(0.1)
        connection.say(frame(RST, 0, 1, struct.pack(">I", code)))
        connection.ask(3, "/whoami")
        connection.stream.close()
    return uploads(host, port) - before


def uploads(host, port):
    connection = Http1(host, port)
    connection.say(b"GET /uploads HTTP/1.1\r\nhost: a\r\n\r\n")
    _, fields = connection.head()
    return int(connection.body(fields)[0])


# HTTP/2 (RFC 9113) by hand.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, GOAWAY, CONTINUATION = 0, 1, 3, 4, 7, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def field(name, value):
    """HPACK without any compression (RFC 7541, section 6.2.2); both are shorter than 127 bytes."""
    return bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def request(path, method="GET", **more):
    pseudo = {":method": method, ":scheme": "http", ":path": path, ":authority": "a"}
    return b"".join(field(name.replace("_", "-"), value) for name, value in (pseudo | more).items())


class Http2:
    def __init__(self, host, port):
        self.stream = socket.create_connection((host, port), PATIENCE)
        self.heard = b""
        self.say(PREFACE + frame(SETTINGS, 0, 0))

    def say(self, data):
        self.stream.sendall(data)

    def frames(self, stream):
        """Those of a stream, until its end, as (kind, payload)."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            while len(self.heard) >= 9 and len(self.heard) >= 9 + int.from_bytes(self.heard[:3], "big"):
                size = int.from_bytes(self.heard[:3], "big")
                kind, flags, of = self.heard[3], self.heard[4], int.from_bytes(self.heard[5:9], "big")
                payload, self.heard = self.heard[9 : 9 + size], self.heard[9 + size :]
                if kind == SETTINGS and not flags:
                    self.say(frame(SETTINGS, 1, 0))
                if kind == GOAWAY or (kind == RST and of == stream):
                    yield kind, payload
                    return
                if of == stream and kind in (DATA, HEADERS):
                    yield kind, payload
                    if flags & END_STREAM:
                        return
            if select.select([self.stream], [], [], PATIENCE)[0]:
                more = self.stream.recv(65536)
                if not more:
                    return
                self.heard += more

    def ask(self, stream, path, method="GET", body=b"", trailers=b"", empty=0):
        """Asks, with so many frames of no data before the body's; the kinds of the answer's frames, and its data."""
        # Towards HTTP/1.1 only those pass that were announced.
        said = request(path, method, **({"trailer": "x-sum"} if trailers else {}))
        if not body and not trailers and not empty:
            self.say(frame(HEADERS, END_STREAM | END_HEADERS, stream, said))
        else:
            end = 0 if trailers else END_STREAM
            self.say(frame(HEADERS, END_HEADERS, stream, said) + frame(DATA, 0, stream) * empty + frame(DATA, end, stream, body))
            if trailers:
                self.say(frame(HEADERS, END_STREAM | END_HEADERS, stream, trailers))
        answer = list(self.frames(stream))
        return [kind for kind, _ in answer], b"".join(payload for kind, payload in answer if kind == DATA).decode("latin-1")


def trailers_of_http2(host, port):
    return Http2(host, port).ask(1, "/trailed", "POST", b"abc", field("x-sum", "6"))[1]


def heads_of_http2(host, port):
    """Nothing but a head comes to HEAD, and the connection goes on."""
    connection = Http2(host, port)
    kinds = [connection.ask(2 * number + 1, "/whoami", "HEAD")[0] for number in range(20)]
    data = [connection.ask(101 + 2 * number, path)[1] for number, path in enumerate(["/status/204", "/status/304"])]
    return [all(each == [HEADERS] for each in kinds), data, connection.ask(201, "/whoami")[0][0]]


def empty_frames(host, port):
    """A frame without data in each of a thousand requests of one connection is nobody's fault."""
    connection = Http2(host, port)
    done = 0
    for number in range(1_000):
        done += connection.ask(2 * number + 1, "/echo", "POST", b"abc", empty=1)[1] == "abc"
    return done


def main():
    host, port = sys.argv[1], int(sys.argv[2])
    cases = [
        expect_continue,
        expect_is_not_passed_on,
        trailers_both_ways,
        answers_without_a_body,
        broken_uploads,
        trailers_of_http2,
        heads_of_http2,
        empty_frames,
    ]
    print(json.dumps({case.__name__: case(host, port) for case in cases}))


main()
