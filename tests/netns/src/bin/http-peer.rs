//! An HTTP server for tests: HTTP/1 or HTTP/2, whichever a client begins with.
//!
//! ```text
//! http-peer PORT NAME
//! ```
//!
//! | path | answer |
//! |---|---|
//! | `/whoami` | as JSON: the server's name, the request's method, path, version and fields; to HEAD in HTTP/2 with a body |
//! | `/status/CODE` | that status |
//! | `/echo` | the request's body, and its trailers |
//! | `/trailed` | as text: the trailers of the request, once it has come whole |
//! | `/uploads` | how many bodies have come whole to `/echo` |
//! | `/trailers` | a body, and a trailer `x-sum: 3` |
//! | `/cut` | half of the body that it announces, then nothing |
//! | `/cut/CODE` | half of a body, then in HTTP/2 a reset with that code |
//! | `/never` | none |
//! | `/upgrade` | 101 to whatever was asked for; from then on, every byte comes back |

use std::{
    convert::Infallible,
    net::{Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    io::copy,
    net::{TcpListener, TcpStream},
};

type Body = UnsyncBoxBody<Bytes, BodyError>;
type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Of `/echo`, that have come whole.
static UPLOADS: AtomicU64 = AtomicU64::new(0);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, name] = &words[..] else { anyhow::bail!("http-peer PORT NAME") };
    let listener = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port.parse()?))).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let name = name.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(stream, name).await {
                eprintln!("{error}");
            }
        });
    }
}

async fn serve(stream: TcpStream, name: String) -> anyhow::Result<()> {
    let mut first = [0; 3];
    let spoken = tokio::time::timeout(Duration::from_mins(1), async {
        while stream.peek(&mut first).await? < first.len() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    });
    spoken.await??;
    let service = service_fn(move |request| {
        let name = name.clone();
        async move { Ok::<_, Infallible>(answer(request, &name).await) }
    });
    if &first == b"PRI" {
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await?;
    } else {
        http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service).with_upgrades().await?;
    }
    Ok(())
}

async fn answer(mut request: Request<Incoming>, name: &str) -> Response<Body> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/trailers" => {
            let trailers = HeaderMap::from_iter([(header::HeaderName::from_static("x-sum"), HeaderValue::from_static("3"))]);
            let mut response = Response::new(frames(vec![Frame::data("one two three\n".into()), Frame::trailers(trailers)]));
            response.headers_mut().insert(header::TRAILER, HeaderValue::from_static("x-sum"));
            response
        }
        "/echo" => echo(request).await,
        "/trailed" => match request.into_body().collect().await {
            Err(_) => empty(StatusCode::BAD_REQUEST),
            Ok(body) => {
                let line =
                    |(name, value): (&header::HeaderName, &HeaderValue)| format!("{name}: {}\n", value.to_str().unwrap_or("?"));
                Response::new(full(body.trailers().map_or(String::new(), |trailers| trailers.iter().map(line).collect())))
            }
        },
        "/uploads" => Response::new(full(UPLOADS.load(Relaxed).to_string())),
        "/cut" => {
            let mut response =
                Response::new(Cut::after(100, std::io::Error::from(std::io::ErrorKind::BrokenPipe).into()).boxed_unsync());
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("8"));
            response
        }
        "/never" => std::future::pending().await,
        "/upgrade" => {
            let to = request.headers().get(header::UPGRADE).cloned();
            let Some(to) = to else { return empty(StatusCode::UPGRADE_REQUIRED) };
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgraded.await {
                    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
                    let _ = copy(&mut reader, &mut writer).await;
                    let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
                }
            });
            let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(header::UPGRADE, to);
            response
        }
        path if path.starts_with("/cut/") => match path["/cut/".len()..].parse::<u32>() {
            Ok(code) => Response::new(Cut::after(100, h2::Error::from(h2::Reason::from(code)).into()).boxed_unsync()),
            Err(_) => empty(StatusCode::BAD_REQUEST),
        },
        path => match path.strip_prefix("/status/").map(|code| code.parse().map(StatusCode::from_u16)) {
            Some(Ok(Ok(status))) => empty(status),
            Some(_) => empty(StatusCode::BAD_REQUEST),
            None => whoami(&request, name),
        },
    }
}

async fn echo(request: Request<Incoming>) -> Response<Body> {
    let named = request.headers().get(header::TRAILER).cloned();
    let Ok(body) = request.into_body().collect().await else { return empty(StatusCode::BAD_REQUEST) };
    UPLOADS.fetch_add(1, Relaxed);
    let trailers = body.trailers().cloned();
    let mut parts = vec![Frame::data(body.to_bytes())];
    parts.extend(trailers.map(Frame::trailers));
    let mut response = Response::new(frames(parts));
    if let Some(named) = named {
        response.headers_mut().insert(header::TRAILER, named);
    }
    response
}

fn whoami(request: &Request<Incoming>, name: &str) -> Response<Body> {
    let mut fields = serde_json::Map::new();
    for (field, value) in request.headers() {
        let text = String::from_utf8_lossy(value.as_bytes());
        let all = fields.get(field.as_str()).and_then(|before| before.as_str()).map(|before| format!("{before},{text}"));
        fields.insert(field.to_string(), json!(all.unwrap_or_else(|| text.into_owned())));
    }
    let text = json!({
        "name": name,
        "method": request.method().as_str(),
        "path": request.uri().path_and_query().map_or("", |path| path.as_str()),
        "authority": request.uri().authority().map(ToString::to_string),
        "version": format!("{:?}", request.version()),
        "fields": fields,
    });
    let mut response = Response::new(full(format!("{text}\n")));
    response.headers_mut().insert("x-served-by", HeaderValue::from_str(name).unwrap_or(HeaderValue::from_static("?")));
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full(""));
    *response.status_mut() = status;
    response
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

fn frames(frames: Vec<Frame<Bytes>>) -> Body {
    StreamBody::new(tokio_stream::iter(frames.into_iter().map(Ok))).boxed_unsync()
}

/// Breaks off some time after its first piece, so that this has gone out.
struct Cut {
    first: Option<Bytes>,
    pause: Pin<Box<tokio::time::Sleep>>,
    with: Option<BodyError>,
}

impl Cut {
    fn after(milliseconds: u64, with: BodyError) -> Self {
        let pause = Box::pin(tokio::time::sleep(Duration::from_millis(milliseconds)));
        Self { first: Some("half".into()), pause, with: Some(with) }
    }
}

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        self.pause.as_mut().poll(cx).map(|()| self.with.take().map(Err))
    }
}
