//! Which node is calling: a bearer token, `<64 hex digits>.<node>`.
//!
//! The state folder holds the SHA-256 of each node's token in `tokens/<node>`, for the owner's eyes only. Removing the
//! file, or issuing another token, ends the old one, for open streams too. Every service is behind [`Tokens::intercept`].

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use sha2::{Digest, Sha256};
use tonic::{Request, Status};
use tracing::debug;

use crate::disk::{self, Secrecy};

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{name:?} is not a node's name (a-z, 0-9, '-', '.', at most 253)")]
    Name { name: String },
    #[error("no randomness")]
    Random,
    #[error("cannot write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The node that calls; in the extensions of every request that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub node: String,
    token: [u8; 32],
}

/// The tokens of all nodes, in files.
#[derive(Clone, Debug)]
pub struct Tokens {
    folder: PathBuf,
}

impl Tokens {
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join("tokens") }
    }

    /// A new token for a node; an older one ends.
    pub fn issue(&self, node: &str) -> Result<String, TokenError> {
        if !is_node_name(node) {
            return Err(TokenError::Name { name: node.into() });
        }
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| TokenError::Random)?;
        let token = format!("{}.{node}", hex(&secret));
        let path = self.folder.join(node);
        disk::replace(&path, hex(&digest(&token)).as_bytes(), Secrecy::Secret)
            .map_err(|source| TokenError::Write { path, source })?;
        Ok(token)
    }

    /// The node of a token that is valid now.
    pub fn authenticate(&self, token: &str) -> Option<Caller> {
        let (_, node) = token.split_once('.')?;
        if !is_node_name(node) {
            return None;
        }
        let caller = Caller { node: node.into(), token: digest(token) };
        self.is_valid(&caller).then_some(caller)
    }

    /// Whether a caller's token is still valid.
    pub fn is_valid(&self, caller: &Caller) -> bool {
        let stored = fs::read_to_string(self.folder.join(&caller.node)).unwrap_or_default();
        // The comparison takes as long whatever the difference is.
        verify_slices_are_equal(stored.trim().as_bytes(), hex(&caller.token).as_bytes()).is_ok()
    }

    /// Lets a request pass with its caller, or refuses it.
    pub fn intercept(&self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let Some(token) = header.and_then(|header| header.strip_prefix("Bearer ").or_else(|| header.strip_prefix("bearer ")))
        else {
            return Err(Status::unauthenticated(
                "no bearer token: start the node with the token that `mesh-controller token` printed",
            ));
        };
        let Some(caller) = self.authenticate(token.trim()) else {
            debug!("a call with an unknown or revoked token was refused");
            return Err(Status::unauthenticated("the token is unknown or revoked: issue another with `mesh-controller token`"));
        };
        request.extensions_mut().insert(caller);
        Ok(request)
    }
}

/// The caller that [`Tokens::intercept`] has found.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get().cloned().ok_or_else(|| Status::unauthenticated("no caller"))
}

/// What Kubernetes accepts as a node's name: nothing that could leave the folder.
fn is_node_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    name.len() <= 253 && name.bytes().all(allowed) && edge(name.as_bytes().first()) && edge(name.as_bytes().last())
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn request(token: Option<&str>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        request
    }

    #[test]
    fn a_token_names_its_node_until_it_is_revoked() {
        let state = tempfile::tempdir().unwrap();
        let tokens = Tokens::new(state.path());
        let token = tokens.issue("node-1").unwrap();
        let passed = tokens.intercept(request(Some(&token))).unwrap();
        let caller = caller(&passed).unwrap();
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
        assert!(tokens.intercept(request(None)).is_err());
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
}
