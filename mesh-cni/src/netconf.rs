//! The network configuration on standard input, as far as this plugin reads it.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use mesh_proto::cni::VERSIONS;
use serde::Deserialize;
use serde_json::Value;

use crate::answer::Failure;

/// Our entry of the node's configuration list, with what the plugins before us said.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    #[serde(default)]
    cni_version: String,
    /// The file that the node proxy writes for this plugin.
    configuration: Option<PathBuf>,
    prev_result: Option<Value>,
}

/// What a result says of addresses, in every version since 0.3.0.
#[derive(Deserialize)]
struct Addresses {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Ip>,
}

#[derive(Deserialize)]
struct Interface {
    /// The pod's namespace; empty for an interface of the host's.
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    /// With the length of its prefix, `10.1.2.3/24`.
    address: String,
    interface: Option<usize>,
}

impl NetConf {
    pub fn parse(input: &[u8]) -> Result<Self, Failure> {
        let conf: Self = serde_json::from_slice(input).map_err(|source| Failure::Decode { source })?;
        if !VERSIONS.contains(&conf.cni_version.as_str()) {
            return Err(Failure::Version { found: conf.cni_version });
        }
        Ok(conf)
    }

    pub fn configuration(&self) -> Result<&Path, Failure> {
        self.configuration.as_deref().ok_or(Failure::NetConf { problem: "names no file in \"configuration\"" })
    }

    /// The result of the plugins before this one, as it was handed over.
    pub fn prev_result(&self) -> Result<&Value, Failure> {
        self.prev_result.as_ref().ok_or(Failure::NetConf {
            problem: "has no \"prevResult\": this plugin comes after those that make the pod's network",
        })
    }

    /// The pod's own addresses.
    pub fn addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        let wrong = |problem| Failure::NetConf { problem };
        let result = self.prev_result()?;
        let Addresses { interfaces, ips } =
            Addresses::deserialize(result).map_err(|_| wrong("has a \"prevResult\" whose addresses can not be read"))?;
        let of_pod = |ip: &&Ip| ip.interface.and_then(|at| interfaces.get(at)).is_none_or(|found| !found.sandbox.is_empty());
        let parse = |ip: &Ip| ip.address.split('/').next().and_then(|address| address.parse().ok());
        let addresses: Option<Vec<IpAddr>> = ips.iter().filter(of_pod).map(parse).collect();
        match addresses {
            None => Err(wrong("has a \"prevResult\" with an address that is none")),
            Some(addresses) if addresses.is_empty() => {
                Err(wrong("has a \"prevResult\" without an address of the pod: the plugins before this one gave it none"))
            }
            Some(addresses) => Ok(addresses),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn conf(prev_result: &Value) -> NetConf {
        let conf = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "keelson-cni", "configuration": "/x", "prevResult": prev_result,
        });
        NetConf::parse(conf.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn addresses_are_the_pods_own() {
        let result = json!({
            "interfaces": [{ "name": "cni0" }, { "name": "veth1", "sandbox": "" }, { "name": "eth0", "sandbox": "/run/netns/a" }],
            "ips": [
                { "address": "10.0.0.7/24", "interface": 2, "gateway": "10.0.0.1" },
                { "address": "fd00::7/64", "interface": 2 },
                { "address": "10.0.0.1/24", "interface": 0 },
            ],
        });
        assert_eq!(conf(&result).addresses().unwrap(), ["10.0.0.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]);
        // Of 0.3.0 to 0.4.0, and of plugins that name no interface.
        let older = json!({ "ips": [{ "version": "4", "address": "10.0.0.8/24" }] });
        assert_eq!(conf(&older).addresses().unwrap(), ["10.0.0.8".parse::<IpAddr>().unwrap()]);
        for bad in [json!({}), json!({ "ips": [{ "address": "x/24" }] }), json!({ "ips": 1 })] {
            assert_eq!(conf(&bad).addresses().unwrap_err().code(), 7, "{bad}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let code = |text: &str| NetConf::parse(text.as_bytes()).map(drop).map_err(|failure| failure.code());
        assert_eq!(code("{}"), Err(1));
        assert_eq!(code(r#"{ "cniVersion": "0.2.0" }"#), Err(1));
        assert_eq!(code("nothing"), Err(6));
        let alone = NetConf::parse(br#"{ "cniVersion": "1.1.0" }"#).unwrap();
        assert_eq!(alone.prev_result().unwrap_err().code(), 7);
        assert_eq!(alone.configuration().unwrap_err().code(), 7);
    }
}
