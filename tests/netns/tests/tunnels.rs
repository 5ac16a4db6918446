//! CONNECT to an application that is a proxy itself, on the client's own node and across nodes: what is said after the answer
//! passes both ways as it is, a refusal is an answer like any other, and policies see the request.

#![allow(clippy::unwrap_used, reason = "tests")]

use harness::wait_until;
use netns_tests::{
    Mesh, PATIENCE,
    manifest::{namespace, node, pod, policy, service_with},
};
use serde_json::json;

const SERVERS: [(&str, &str); 2] = [("near", "10.96.0.1"), ("far", "10.96.0.2")];

/// Grants CONNECT to any port but 25, and sends back what comes.
const PROXY: &str = r"
import socket, threading
listener = socket.create_server(('::', 3128), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
def serve(s):
    head = b''
    while not head.endswith(b'\r\n\r\n'):
        more = s.recv(1)
        if not more:
            return s.close()
        head += more
    first = head.split(b'\r\n')[0]
    if not first.startswith(b'CONNECT ') or b':25 ' in first:
        s.sendall(b'HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno')
        return s.close()
    s.sendall(b'HTTP/1.1 200 OK\r\nx-target: ' + first.split(b' ')[1] + b'\r\n\r\n')
    while more := s.recv(65536):
        s.sendall(more)
    s.shutdown(socket.SHUT_WR)
    s.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
";

/// Prints the answer's head and, of a tunnel, that everything came back.
const CLIENT: &str = r"
import socket, sys
address, target = sys.argv[1:]
s = socket.create_connection((address, 3128), 20)
s.sendall(f'CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n'.encode())
head = b''
while not head.endswith(b'\r\n\r\n'):
    more = s.recv(1)
    assert more, head
    head += more
print(head.decode().lower())
if head.startswith(b'HTTP/1.1 200'):
    for size in (1, 1000, 300000):
        sent = bytes(i % 251 for i in range(size))
        s.sendall(sent)
        got = b''
        while len(got) < size:
            more = s.recv(65536)
            assert more, len(got)
            got += more
        assert got == sent
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b''
    print('whole')
";

#[test]
fn tunnels_pass_through() {
    let server = |name: &str, at: &str| pod(&format!("app/{name}"), at).runs(&["python3", "-c", PROXY], Some(3128)).document();
    let port = [("http-proxy", 3128, 3128)];
    let mesh = Mesh::up(&[
        node("node-1", 1),
        node("node-2", 2),
        namespace("app", true),
        pod("app/client", "node-1").idle().document(),
        server("near", "node-1"),
        server("far", "node-2"),
        service_with("app", "near", 1, &port),
        service_with("app", "far", 2, &port),
    ]);
    for (name, address) in SERVERS {
        wait_until("the tunnel", PATIENCE, || Ok(connect(&mesh, address, "books.example:443").contains("whole"))).unwrap();
        let granted = connect(&mesh, address, "books.example:443");
        assert!(granted.starts_with("http/1.1 200 ") && granted.contains("x-target: books.example:443"), "{granted}");
        let refused = connect(&mesh, address, "mail.example:25");
        assert!(refused.starts_with("http/1.1 405 "), "{refused}");

        let rule = json!([{ "to": [{ "operation": { "methods": ["CONNECT"], "hosts": ["closed.example"] } }] }]);
        mesh.put("policy.yaml", &policy("app", "no-tunnel", Some(name), "DENY", &rule));
        let denied = || Ok(connect(&mesh, address, "closed.example:443").starts_with("http/1.1 403 "));
        wait_until("the policy to deny", PATIENCE, denied).unwrap();
        assert!(connect(&mesh, address, "books.example:443").contains("whole"), "another host");
        mesh.take_away("policy.yaml");
    }
    mesh.down();
}

fn connect(mesh: &Mesh, address: &str, target: &str) -> String {
    let output = mesh.exec("app/client", &["python3", "-c", CLIENT, address, target]).unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
