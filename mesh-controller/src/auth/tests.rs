use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Request, Response};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewStatus, UserInfo};
use mesh_config::document::{Format, Limits, documents};
use tokio::sync::watch;
use tonic::body::Body;
use tower::{Layer, Service};

use super::{
    authenticator::Proof,
    cache::{Cache, FRESH, Known, MAX_TOKENS},
    claims::Claims,
    review::{Confirmed, judge, plausible},
    *,
};
use crate::{
    placement::{Placement, Places},
    source::{Admission, Sources},
};

/// Node and pod that a request was passed on with; None: it was refused.
async fn passed(authenticator: &Authenticator, header: Option<&str>) -> Option<String> {
    let echo = tower::service_fn(|request: Request<Body>| async move {
        let node = request.extensions().get::<Caller>().map(|caller| caller.node.clone()).unwrap_or_default();
        let response = Response::builder().header("node", node).body(Body::default()).unwrap();
        Ok::<_, std::convert::Infallible>(response)
    });
    let mut request = Request::new(Body::default());
    if let Some(header) = header {
        request.headers_mut().insert("authorization", header.parse().unwrap());
    }
    let response = Guard(authenticator.clone()).layer(echo).call(request).await.unwrap();
    response.headers().get("node").map(|node| node.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_guard_passes_callers_on_and_nobody_else() {
    let state = tempfile::tempdir().unwrap();
    let tokens = Tokens::new(state.path());
    let token = tokens.issue("node-1").unwrap();
    let authenticator = Authenticator::Folder(tokens);
    assert_eq!(passed(&authenticator, Some(&format!("Bearer {token}"))).await.as_deref(), Some("node-1"));
    assert_eq!(passed(&authenticator, Some(&format!("bearer  {token} "))).await.as_deref(), Some("node-1"));
    let long = format!("Bearer {}", "x".repeat(20_000));
    for refused in [None, Some(""), Some("Bearer"), Some("Bearer "), Some(&*token), Some("Basic eDp5"), Some(&*long)] {
        assert_eq!(passed(&authenticator, refused).await, None, "{refused:?}");
    }
}

#[test]
fn a_token_names_its_node_until_it_is_revoked() {
    let state = tempfile::tempdir().unwrap();
    let tokens = Tokens::new(state.path());
    let token = tokens.issue("node-1").unwrap();
    let caller = tokens.authenticate(&token).unwrap();
    assert_eq!(caller.node, "node-1");

    let file = state.path().join("tokens/node-1");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!fs::read_to_string(&file).unwrap().contains(token.split('.').next().unwrap()), "the secret itself is not kept");

    let second = tokens.issue("node-1").unwrap();
    assert!(tokens.authenticate(&token).is_none(), "an older token ends");
    assert!(tokens.authenticate(&second).is_some());
    fs::remove_file(file).unwrap();
    assert!(tokens.authenticate(&second).is_none());
    assert!(!tokens.is_valid(&caller));
}

#[test]
fn nothing_else_is_a_token() {
    let state = tempfile::tempdir().unwrap();
    let tokens = Tokens::new(state.path());
    let token = tokens.issue("node-1").unwrap();
    let (secret, _) = token.split_once('.').unwrap();
    tokens.issue("node-2").unwrap();
    for bad in ["", ".", "node-1", secret, &format!("{secret}.node-2"), &format!("{secret}.../tokens/node-1"), &token[1..]] {
        assert!(tokens.authenticate(bad).is_none(), "{bad}");
    }
    for bad in ["", "..", "../x", "a/b", "A", "-a", "a."] {
        assert!(matches!(tokens.issue(bad), Err(TokenError::Name { .. })), "{bad}");
    }
}

#[test]
fn an_empty_file_accepts_nobody() {
    let state = tempfile::tempdir().unwrap();
    fs::create_dir_all(state.path().join("tokens")).unwrap();
    fs::write(state.path().join("tokens/node-1"), "").unwrap();
    assert!(Tokens::new(state.path()).authenticate(".node-1").is_none());
}

fn account() -> Account {
    Account { namespace: "keelson-system".into(), name: "keelson-node".into() }
}

const USER: &str = "system:serviceaccount:keelson-system:keelson-node";

/// What the API server says of a good token.
fn confirmed() -> TokenReviewStatus {
    let extra = [("authentication.kubernetes.io/node-name", "node-1"), ("authentication.kubernetes.io/pod-uid", "uid-1")];
    let extra = extra.map(|(key, value)| (key.to_owned(), vec![value.to_owned()]));
    TokenReviewStatus {
        audiences: Some(vec!["keelson".into()]),
        authenticated: Some(true),
        error: None,
        user: Some(UserInfo { extra: Some(extra.into()), username: Some(USER.into()), ..UserInfo::default() }),
    }
}

#[test]
fn the_api_servers_answer_has_to_say_everything() {
    assert_eq!(judge(&confirmed(), &account()), Ok(Confirmed { node: "node-1".into(), uid: "uid-1".into() }));

    let with = |change: fn(&mut TokenReviewStatus)| {
        let mut status = confirmed();
        change(&mut status);
        judge(&status, &account()).unwrap_err()
    };
    assert!(matches!(with(|status| status.authenticated = Some(false)), Refusal::Unknown { .. }));
    assert!(matches!(with(|status| status.authenticated = None), Refusal::Unknown { .. }));
    assert!(matches!(with(|status| status.audiences = None), Refusal::Audience { .. }), "a server that knows no audiences");
    assert!(matches!(with(|status| status.audiences = Some(vec!["x".into()])), Refusal::Audience { .. }));
    assert!(matches!(with(|status| status.user = None), Refusal::Account { .. }));
    let other = with(|status| status.user.as_mut().unwrap().username = Some("system:serviceaccount:shop:page".into()));
    assert_eq!(other.to_string(), format!("the token is of system:serviceaccount:shop:page, not of {USER}"));
    let without = |key: &'static str| {
        let mut status = confirmed();
        status.user.as_mut().unwrap().extra.as_mut().unwrap().remove(key);
        judge(&status, &account()).unwrap_err()
    };
    assert_eq!(without("authentication.kubernetes.io/node-name"), Refusal::NoNode);
    assert_eq!(without("authentication.kubernetes.io/pod-uid"), Refusal::NoPod);
    assert_eq!(with(|status| status.user.as_mut().unwrap().extra = None), Refusal::NoNode);
}

fn token(claims: &str) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
}

#[test]
fn what_a_token_says_of_itself_only_ever_refuses() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let read = |text: &str| plausible(&Claims::of(&token(text)).unwrap(), &account(), now);
    let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(1_001);
    assert_eq!(read(&format!(r#"{{"sub":"{USER}","exp":1001,"aud":["a","keelson"]}}"#)), Ok(expires));
    assert_eq!(read(&format!(r#"{{"sub":"{USER}","exp":1001,"aud":"keelson"}}"#)), Ok(expires));
    assert_eq!(read(&format!(r#"{{"sub":"{USER}","exp":1000,"aud":"keelson"}}"#)), Err(Refusal::Expired));
    assert!(matches!(read(&format!(r#"{{"sub":"{USER}","exp":1001,"aud":["api"]}}"#)), Err(Refusal::Audience { .. })));
    assert!(matches!(read(&format!(r#"{{"sub":"{USER}","exp":1001}}"#)), Err(Refusal::Audience { .. })));
    assert!(matches!(read(r#"{"sub":"x","exp":1001,"aud":"keelson"}"#), Err(Refusal::Account { .. })));
    assert!(read(&format!(r#"{{"sub":"{USER}","exp":18446744073709551615,"aud":"keelson"}}"#)).is_err());
    for bad in ["", "a", "a.b", "a.b.c", "a.b.c.d", "..", &token("[]"), &token(r#"{"sub":"x"}"#), &format!("{}.x", token("{}"))] {
        assert_eq!(Claims::of(bad), None, "{bad}");
    }
}

#[test]
fn a_confirmation_counts_for_a_minute_and_never_past_the_tokens_end() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let mut cache = Cache::default();
    let digest = [7; 32];
    cache.confirm(digest, "node-1".into(), "uid".into(), start + Duration::from_secs(90), start);
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    assert!(matches!(cache.look(&digest, at(0)), Known::Fresh(caller) if caller.node == "node-1"));
    assert!(matches!(cache.look(&digest, at(FRESH.as_secs() - 1)), Known::Fresh(_)));
    assert!(matches!(cache.look(&digest, at(FRESH.as_secs())), Known::Stale(_)));
    assert!(matches!(cache.look(&digest, start - Duration::from_secs(5)), Known::Stale(_)), "the clock was set back");
    assert!(matches!(cache.look(&digest, at(90)), Known::Unknown));
    assert!(matches!(cache.look(&[8; 32], at(0)), Known::Unknown));
    cache.forget(&digest);
    assert!(matches!(cache.look(&digest, at(0)), Known::Unknown));
}

#[test]
fn the_cache_is_bounded() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let mut cache = Cache::default();
    let digest = |number: usize| {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        digest
    };
    let hour = Duration::from_hours(1);
    for number in 0..=MAX_TOKENS {
        let now = start + Duration::from_millis(number as u64);
        cache.confirm(digest(number), "n".into(), "u".into(), start + hour, now);
    }
    assert!(matches!(cache.look(&digest(0), start), Known::Unknown), "the oldest went");
    assert!(matches!(cache.look(&digest(MAX_TOKENS), start + hour / 2), Known::Stale(_)), "the newest is there");
}

/// Reviews by an API server that says this of every token, or is away while `status` is None; how often it was asked.
fn reviews(
    status: Arc<Mutex<Option<TokenReviewStatus>>>,
    placement: watch::Receiver<Arc<Placement>>,
) -> (Reviews, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = tower::service_fn(move |_: Request<kube::client::Body>| {
        let status = status.lock().unwrap().clone();
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            let status = status.ok_or_else(|| std::io::Error::other("nobody is there"))?;
            let review = TokenReview { status: Some(status), ..TokenReview::default() };
            let body = kube::client::Body::from(serde_json::to_vec(&review).unwrap());
            Ok::<_, std::io::Error>(Response::builder().status(201).body(body).unwrap())
        }
    });
    (Reviews::new(kube::Client::new(server, "default"), account(), placement), asked)
}

#[tokio::test]
async fn while_the_api_server_is_away_known_tokens_go_on_and_others_do_not() {
    let server = Arc::new(Mutex::new(Some(confirmed())));
    let (placed, placement) = watch::channel(Arc::new(Placement::default()));
    let (reviews, asked) = reviews(server.clone(), placement);
    let expires = SystemTime::now() + Duration::from_hours(1);
    let seconds = expires.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let of = |jti: &str| token(&format!(r#"{{"sub":"{USER}","exp":{seconds},"aud":["keelson"],"jti":"{jti}"}}"#));
    let (known, other) = (of("known"), of("other"));
    let caller = reviews.authenticate(&known).await.unwrap();
    reviews.authenticate(&known).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1, "an answer counts for a while");

    *server.lock().unwrap() = None;
    assert!(matches!(reviews.authenticate(&other).await, Err(Refusal::Away { .. })));
    let Proof::Pod { token: digest, uid, .. } = &caller.proof else { panic!("{caller:?}") };
    let long_ago = SystemTime::now() - Duration::from_mins(10);
    reviews.cache.lock().unwrap().confirm(*digest, "node-1".into(), uid.clone(), expires, long_ago);
    assert_eq!(reviews.authenticate(&known).await.unwrap().node, "node-1", "nobody can be asked");
    assert_eq!(asked.load(Ordering::Relaxed), 3, "but that was tried");
    // Its end is its end.
    reviews.cache.lock().unwrap().confirm(*digest, "node-1".into(), uid.clone(), SystemTime::now(), long_ago);
    assert!(matches!(reviews.authenticate(&known).await, Err(Refusal::Away { .. })));
    assert!(!reviews.is_valid(&caller), "and that of a stream whose pod was never seen");

    // Once its pod was seen, a stream stands on that alone.
    placed.send_replace(Arc::new(placement_of_node()));
    assert!(reviews.is_valid(&caller));
    placed.send_replace(Arc::new(Placement::default()));
    assert!(!reviews.is_valid(&caller));

    *server.lock().unwrap() = Some(TokenReviewStatus { authenticated: Some(false), ..confirmed() });
    assert!(matches!(reviews.authenticate(&other).await, Err(Refusal::Unknown { .. })));
}

fn placement_of_node() -> Placement {
    placement(
        "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: keelson-system, uid: uid-1},
          spec: {nodeName: node-1, serviceAccountName: keelson-node, containers: []}, status: {phase: Running}}",
    )
}

/// Where the pods of these documents are.
fn placement(text: &str) -> Placement {
    let mut admission = Admission::default();
    let documents = documents(text.as_bytes(), Format::Yaml, Limits::default()).unwrap();
    let documents = documents.into_iter().map(|document| ("all.yaml".into(), Arc::new(document))).collect();
    admission.apply(Sources { documents, problems: Vec::new() });
    let mut places = Places::default();
    places.update(&admission.take_touched(), admission.objects());
    places.placement().clone()
}

#[test]
fn a_stream_stands_on_its_pod_and_node() {
    let base = "
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: keelson-system, uid: uid-1},
 spec: {nodeName: node-1, serviceAccountName: keelson-node, containers: []}, status: {phase: Running}}
";
    let runs = |text: &str, node: &str, uid: &str| account().runs(&placement(text), node, uid);
    assert!(runs(base, "node-1", "uid-1"));
    assert!(!runs(base, "node-2", "uid-1"));
    assert!(!runs(base, "node-1", "uid-2"));
    for (from, to) in [
        ("Running", "Failed"),
        ("serviceAccountName: keelson-node", "serviceAccountName: other"),
        ("namespace: keelson-system", "namespace: keelson-systems"),
    ] {
        assert!(!runs(&base.replace(from, to), "node-1", "uid-1"), "{to}");
    }
}
