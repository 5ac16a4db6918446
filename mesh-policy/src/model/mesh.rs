//! Settings of the whole mesh (Istio's MeshConfig, where the data path needs it) and the extent of the mesh.

use std::net::IpAddr;

use ipnet::IpNet;

use super::TrustDomain;

/// What a node must know of the mesh before it may judge an address that it has not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    pub trust_domain: TrustDomain,
    /// Further trust domains whose identities are accepted as ours (MeshConfig `trustDomainAliases`).
    pub trust_domain_aliases: Vec<TrustDomain>,
    pub outbound_policy: OutboundPolicy,
    /// Aggregated prefixes of all pods, services and ServiceEntry addresses, sorted. Outside them an address is no
    /// business of the mesh; inside them an unknown address is waited for, then refused.
    pub prefixes: Vec<IpNet>,
    /// MeshConfig `hboneIdleTimeout`, in seconds.
    pub hbone_idle_timeout_s: u64,
}

/// MeshConfig `outboundTrafficPolicy.mode`: what happens to an address outside the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OutboundPolicy {
    #[default]
    AllowAny,
    RegistryOnly,
}

impl Mesh {
    /// Whether an address belongs to the mesh's address space, loaded or not.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }

    pub fn trusts(&self, domain: &TrustDomain) -> bool {
        *domain == self.trust_domain || self.trust_domain_aliases.contains(domain)
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
            outbound_policy: OutboundPolicy::default(),
            prefixes: Vec::new(),
            hbone_idle_timeout_s: 300,
        }
    }
}
