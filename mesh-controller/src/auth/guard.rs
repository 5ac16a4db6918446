//! In front of every gRPC service: a request passes with its [`Caller`](super::Caller), or is refused.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::debug;

use super::authenticator::{Authenticator, Caller};

/// Longer than any token of a service account.
const MAX_TOKEN: usize = 16 << 10;

/// Around every service that there is or will be.
#[derive(Clone)]
pub struct Guard(pub Authenticator);

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { authenticator: self.0.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Guarded<S> {
    authenticator: Authenticator,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The one that is ready serves; its copy waits for the next request.
        let copy = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, copy);
        let authenticator = self.authenticator.clone();
        Box::pin(async move {
            // Not the whole request: its body is for one thread alone.
            let headers = request.headers().clone();
            match admit(&authenticator, &headers).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(status) => {
                    debug!(reason = status.message(), "a call was refused");
                    Ok(status.into_http())
                }
            }
        })
    }
}

async fn admit(authenticator: &Authenticator, headers: &HeaderMap) -> Result<Caller, Status> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|header| header.strip_prefix("Bearer ").or_else(|| header.strip_prefix("bearer ")));
    match token.map(str::trim) {
        None | Some("") => Err(Status::unauthenticated(authenticator.hint())),
        Some(token) if token.len() > MAX_TOKEN => Err(Status::unauthenticated("the token is too long to be one")),
        Some(token) => authenticator.authenticate(token).await,
    }
}
