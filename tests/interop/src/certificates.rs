//! Certificates in PEM files, for programs that are not ours.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use harness::{LabStatus, envoy::config::Credentials, in_netns};
use mesh_node::identity::{CertificateAuthority, ChannelRoots, GrpcAuthority, GrpcAuthoritySettings, channel};
use mesh_policy::model::Identity;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// Where the laboratory's controller serves nodes.
const CONTROLLER_PORT: u16 = 15012;
const LIFETIME: Duration = Duration::from_hours(1);

/// A certificate authority that is forgotten at once: only what it signed stays.
pub struct ThrowAway {
    root: String,
    issuer: Issuer<'static, KeyPair>,
}

impl ThrowAway {
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "throw-away");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let root = params.self_signed(&key)?.pem();
        Ok(Self { root, issuer: Issuer::new(params, key) })
    }

    /// A certificate with these names and its key; PEM both.
    pub fn issue(&self, names: Vec<SanType>) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let params = named(names);
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }

    /// The root certificate in PEM.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// A certificate for `identity`, in the files of `name` in `folder`.
    pub fn write(&self, folder: &Path, name: &str, identity: &Identity) -> Result<Credentials> {
        let (chain, key) = self.issue(vec![uri(identity)?])?;
        write(folder, name, &chain, &key, &self.root)
    }
}

/// A certificate for `identity` from the controller of a lab, asked for as the node `node` asks; the files of `name` in
/// `folder`. The controller refuses unless a pod with this service account is on the node.
pub fn signed(lab: &LabStatus, node: &str, folder: &Path, name: &str, identity: &Identity) -> Result<Credentials> {
    let controller = lab.controller.as_ref().context("this lab has no mesh")?;
    let node = lab.nodes.get(node).with_context(|| format!("no node {node}"))?;
    let address = controller.addresses.iter().copied().find(IpAddr::is_ipv4).context("the controller has an IPv4 address")?;
    let url = format!("https://{}", SocketAddr::new(address, CONTROLLER_PORT));
    let settings =
        GrpcAuthoritySettings { token: node.runtime.join("token"), cluster: "Kubernetes".to_owned(), validity: LIFETIME };
    let key = KeyPair::generate()?;
    let request = named(vec![uri(identity)?]).serialize_request(&key)?.pem()?;
    let roots = ChannelRoots::File(controller.ca_root.clone());
    let chain = in_netns(&node.place.netns, || -> Result<Vec<String>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let authority = GrpcAuthority::new(channel(&url, roots)?, settings);
            Ok(authority.sign(identity, &request).await?)
        })
    })??;
    let (root, own) = chain.split_last().context("the controller sent no certificate")?;
    write(folder, name, &own.concat(), &key.serialize_pem(), root)
}

fn named(names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params
}

fn uri(identity: &Identity) -> Result<SanType> {
    Ok(SanType::URI(identity.to_string().try_into()?))
}

fn write(folder: &Path, name: &str, chain: &str, key: &str, roots: &str) -> Result<Credentials> {
    let files = Credentials::in_folder(folder, name);
    let write = || {
        fs::create_dir_all(folder)?;
        fs::write(&files.chain, chain)?;
        fs::write(&files.key, key)?;
        fs::write(&files.roots, roots)
    };
    write().with_context(|| format!("cannot write certificates to {}", folder.display()))?;
    Ok(files)
}
