//! `keelson.mesh.v1.Mesh`.

use mesh_policy::model::{self, OutboundPolicy};

use super::{
    error::{At, Cause, ConvertError},
    network::{bytes_of, known, prefix, trust_domain},
};
use crate::mesh as wire;

/// The name of the only resource of its type.
pub const MESH_NAME: &str = "mesh";

impl TryFrom<wire::Mesh> for model::Mesh {
    type Error = ConvertError;

    fn try_from(mesh: wire::Mesh) -> Result<Self, Self::Error> {
        let wire::Mesh { trust_domain: domain, trust_domain_aliases, outbound_policy, prefixes, hbone_idle_timeout_seconds } =
            mesh;
        let at = At { kind: "Mesh", name: MESH_NAME };
        if hbone_idle_timeout_seconds == 0 {
            return Err(at.refuse("hbone_idle_timeout_seconds", Cause::Range { value: 0 }));
        }
        Ok(Self {
            trust_domain: trust_domain(&domain).map_err(|cause| at.refuse("trust_domain", cause))?,
            trust_domain_aliases: (trust_domain_aliases.iter().enumerate())
                .map(|(index, alias)| {
                    trust_domain(alias).map_err(|cause| at.refuse(format!("trust_domain_aliases[{index}]"), cause))
                })
                .collect::<Result<_, _>>()?,
            outbound_policy: match known(outbound_policy).map_err(|cause| at.refuse("outbound_policy", cause))? {
                wire::OutboundPolicy::AllowAny => OutboundPolicy::AllowAny,
                wire::OutboundPolicy::RegistryOnly => OutboundPolicy::RegistryOnly,
            },
            prefixes: (prefixes.iter().enumerate())
                .map(|(index, found)| {
                    prefix(&found.address, found.length).map_err(|cause| at.refuse(format!("prefixes[{index}]"), cause))
                })
                .collect::<Result<_, _>>()?,
            hbone_idle_timeout_s: hbone_idle_timeout_seconds,
        })
    }
}

impl From<&model::Mesh> for wire::Mesh {
    fn from(mesh: &model::Mesh) -> Self {
        let model::Mesh { trust_domain, trust_domain_aliases, outbound_policy, prefixes, hbone_idle_timeout_s } = mesh;
        Self {
            trust_domain: trust_domain.to_string(),
            trust_domain_aliases: trust_domain_aliases.iter().map(ToString::to_string).collect(),
            outbound_policy: match outbound_policy {
                OutboundPolicy::AllowAny => wire::OutboundPolicy::AllowAny,
                OutboundPolicy::RegistryOnly => wire::OutboundPolicy::RegistryOnly,
            } as i32,
            prefixes: (prefixes.iter())
                .map(|prefix| wire::Prefix { address: bytes_of(prefix.addr()), length: prefix.prefix_len().into() })
                .collect(),
            hbone_idle_timeout_seconds: *hbone_idle_timeout_s,
        }
    }
}
