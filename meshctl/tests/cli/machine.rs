//! A machine of its own: a folder in place of `/run/keelson`, with nodes that answer from files.

use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, body::Bytes, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use mesh_proto::enrol::{
    EnrolRequest, EnrolResponse, EnrolledPod, ListRequest, ListResponse, PodState, UnenrolRequest, UnenrolResponse,
    enrolment_service_server::{EnrolmentService, EnrolmentServiceServer},
};
use serde_json::Value;
use tokio::{net::UnixListener, process::Command};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Status;

pub(crate) struct Machine {
    root: tempfile::TempDir,
}

/// What the program left.
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: Option<i32>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    /// With one lab, `demo`, and the nodes of the fixtures.
    pub(crate) fn with_demo() -> Self {
        let machine = Self::new();
        machine.start("lab/demo/nodes/node-1", Answers::fixture("node-1"));
        machine.start("lab/demo/nodes/node-2", Answers::fixture("node-2"));
        machine
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    /// A node with this runtime directory. It serves as long as the test's runtime lives.
    pub(crate) fn start(&self, runtime_dir: &str, answers: Answers) -> Told {
        let (folder, told) = (self.path(runtime_dir), Told::default());
        fs::create_dir_all(&folder).unwrap();
        let admin = UnixListener::bind(folder.join("admin.sock")).unwrap();
        tokio::spawn(serve_admin(admin, Arc::new(answers), told.clone()));
        let enrol = UnixListener::bind(folder.join("enrol.sock")).unwrap();
        let service = EnrolmentServiceServer::new(Enrolment(told.clone()));
        tokio::spawn(
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(enrol)),
        );
        told
    }

    /// A socket that a node has left behind.
    pub(crate) fn leave_behind(&self, runtime_dir: &str) {
        let folder = self.path(runtime_dir);
        fs::create_dir_all(&folder).unwrap();
        drop(UnixListener::bind(folder.join("admin.sock")).unwrap());
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
        command.args(arguments.split_whitespace()).env("KEELSON_RUN", self.root.path()).kill_on_drop(true);
        command
    }

    /// The machine's folder is written as `[run]` in what the program says.
    pub(crate) async fn run(&self, arguments: &str) -> Ran {
        let output = self.command(arguments).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(self.root.path().to_str().unwrap(), "[run]");
        Ran { out: text(&output.stdout), err: text(&output.stderr), code: output.status.code() }
    }
}

impl Ran {
    /// Standard output, of a program that had nothing to complain of.
    #[track_caller]
    pub(crate) fn succeeded(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    #[track_caller]
    pub(crate) fn failed(self) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(1), ""), "{}", self.err);
        self.err
    }

    /// All three, as a snapshot shows them.
    pub(crate) fn all(&self) -> String {
        format!("{}--- standard error\n{}--- exit code {}", self.out, self.err, self.code.unwrap_or(-1))
    }
}

/// What a node answers to GET.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) status: Value,
    pub(crate) dump: Value,
    pub(crate) connections: Value,
    /// As the node proxy serves it; the fixtures have none.
    pub(crate) model: Vec<u8>,
}

impl Answers {
    pub(crate) fn fixture(node: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/fixtures").join(node);
        let read = |name: &str| serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap();
        Self {
            status: read("status.json"),
            dump: read("config_dump.json"),
            connections: read("connections.json"),
            model: Vec::new(),
        }
    }

    /// The same under another name.
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.status["node"] = name.into();
        self
    }
}

/// What a node was told to do, in order.
#[derive(Clone, Default)]
pub(crate) struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn add(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

async fn serve_admin(listener: UnixListener, answers: Arc<Answers>, told: Told) {
    while let Ok((stream, _)) = listener.accept().await {
        let (answers, told) = (answers.clone(), told.clone());
        let service = service_fn(move |request| {
            let answer = admin(&request, &answers, &told);
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn admin(request: &Request<Incoming>, answers: &Answers, told: &Told) -> Response<Full<Bytes>> {
    let bytes = |status, body: Vec<u8>| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response
    };
    let answer = |status, body: String| bytes(status, body.into_bytes());
    if request.method() == Method::POST {
        told.add(request.uri().to_string());
    }
    match (request.method().as_str(), request.uri().path(), request.uri().query()) {
        ("GET", "/status", _) => answer(StatusCode::OK, answers.status.to_string()),
        ("GET", "/config_dump", _) => answer(StatusCode::OK, answers.dump.to_string()),
        ("GET", "/model", _) => bytes(StatusCode::OK, answers.model.clone()),
        ("GET", "/connections", _) => answer(StatusCode::OK, answers.connections.to_string()),
        ("GET", "/logging", _) => answer(StatusCode::OK, "info\n".into()),
        ("POST", "/logging", Some("level=trace")) => answer(StatusCode::BAD_REQUEST, "too much\n".into()),
        ("POST", "/logging", Some(query)) => answer(StatusCode::OK, format!("{query}\n")),
        ("POST", "/drain", _) => answer(StatusCode::OK, "draining\n".into()),
        _ => answer(StatusCode::NOT_FOUND, "nothing there\n".into()),
    }
}

struct Enrolment(Told);

/// Refuses the pod `shop/refused`; the pod `shop/page` is there already.
#[tonic::async_trait]
impl EnrolmentService for Enrolment {
    async fn enrol(&self, request: tonic::Request<EnrolRequest>) -> Result<tonic::Response<EnrolResponse>, Status> {
        let pod = request.into_inner();
        if pod.name == "refused" {
            return Err(Status::failed_precondition("it is not the pod's own network namespace"));
        }
        self.0.add(format!("{pod:?}"));
        Ok(tonic::Response::new(EnrolResponse {}))
    }

    async fn unenrol(&self, request: tonic::Request<UnenrolRequest>) -> Result<tonic::Response<UnenrolResponse>, Status> {
        self.0.add(format!("{:?}", request.into_inner()));
        Ok(tonic::Response::new(UnenrolResponse {}))
    }

    async fn list(&self, _: tonic::Request<ListRequest>) -> Result<tonic::Response<ListResponse>, Status> {
        let pod = EnrolledPod {
            workload_uid: "cluster-7//Pod/shop/page".into(),
            namespace: "shop".into(),
            name: "page".into(),
            state: PodState::Captured.into(),
            ..EnrolledPod::default()
        };
        Ok(tonic::Response::new(ListResponse { pods: vec![pod] }))
    }
}
