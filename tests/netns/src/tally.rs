//! A client that asks at a fixed rate and notes what became of every request.

use std::{
    net::{IpAddr, SocketAddr},
    process::Child,
};

use serde_json::Value;

use crate::Mesh;

/// `tally ask` in a pod. It ends when this is dropped.
pub struct Tally(Child);

impl Tally {
    /// Asks `address` `count` times, `rate` times a second, at port 80 for HTTP/1 and 81 for HTTP/2; requests carry the pod's name.
    pub fn begin(mesh: &Mesh, pod: &str, address: IpAddr, count: u64, rate: u64) -> Self {
        let [http1, http2] = [80, 81].map(|port| SocketAddr::new(address, port).to_string());
        let (_, name) = pod.split_once('/').expect("NAMESPACE/NAME");
        Self(mesh.spawn_in(pod, &["tally", "ask", &http1, &http2, name, &count.to_string(), &rate.to_string()]).unwrap())
    }

    pub fn goes_on(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    /// Its report, at its end.
    pub fn end(mut self) -> Value {
        let text = std::io::read_to_string(self.0.stdout.take().unwrap()).unwrap();
        assert!(self.0.wait().unwrap().success());
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
