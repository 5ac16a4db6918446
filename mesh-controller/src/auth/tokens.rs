//! Tokens that are issued here: `<64 hex digits>.<node>`.
//!
//! The state folder holds the SHA-256 of each node's token in `tokens/<node>`, for the owner's eyes only. Removing the
//! file, or issuing another token, ends the old one, for open streams too.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use sha2::{Digest, Sha256};

use super::authenticator::{Caller, Proof};
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
        let caller = Caller { node: node.into(), proof: Proof::Issued(digest(token)) };
        self.is_valid(&caller).then_some(caller)
    }

    /// Whether a caller's token is still valid.
    pub fn is_valid(&self, caller: &Caller) -> bool {
        let Proof::Issued(token) = &caller.proof else { return false };
        let stored = fs::read_to_string(self.folder.join(&caller.node)).unwrap_or_default();
        // The comparison takes as long whatever the difference is.
        verify_slices_are_equal(stored.trim().as_bytes(), hex(token).as_bytes()).is_ok()
    }
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
