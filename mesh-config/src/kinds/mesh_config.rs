//! Istio's MeshConfig: the fields that are honoured, and the names of those that are known.

use serde::Deserialize;
use serde_json::Value;

/// The honoured part of MeshConfig (ConfigMap `istio`, key `mesh`; mesh/v1alpha1/config.proto).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshConfig {
    pub trust_domain: Option<String>,
    pub trust_domain_aliases: Vec<String>,
    pub root_namespace: Option<String>,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    /// A duration such as `300s` or `1h30m`.
    pub hbone_idle_timeout: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct OutboundTrafficPolicy {
    pub mode: Option<OutboundMode>,
    /// Reported, not honoured.
    pub tls: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundMode {
    RegistryOnly,
    AllowAny,
    AllowAnyDynamicDns,
}

/// Whether Istio defines this field of MeshConfig, while nothing here follows it.
pub fn known_but_not_honoured(field: &str) -> bool {
    const KNOWN: &[&str] = &[
        "proxyListenPort",
        "proxyInboundListenPort",
        "proxyHttpPort",
        "connectTimeout",
        "protocolDetectionTimeout",
        "tcpKeepalive",
        "ingressClass",
        "ingressService",
        "ingressControllerMode",
        "ingressSelector",
        "enableTracing",
        "accessLogFile",
        "accessLogFormat",
        "accessLogEncoding",
        "enableEnvoyAccessLogService",
        "disableEnvoyListenerLog",
        "defaultConfig",
        "inboundTrafficPolicy",
        "configSources",
        "enableAutoMtls",
        "caCertificates",
        "defaultServiceExportTo",
        "defaultVirtualServiceExportTo",
        "defaultDestinationRuleExportTo",
        "localityLbSetting",
        "zoneAwareLbSetting",
        "dnsRefreshRate",
        "h2UpgradePolicy",
        "inboundClusterStatName",
        "outboundClusterStatName",
        "certificates",
        "serviceSettings",
        "serviceScopeConfigs",
        "enablePrometheusMerge",
        "verifyCertificateAtClient",
        "ca",
        "extensionProviders",
        "defaultProviders",
        "discoverySelectors",
        "pathNormalization",
        "defaultHttpRetryPolicy",
        "meshMTLS",
        "tlsDefaults",
        "defaultTrafficPolicy",
        "serviceEntryVisibility",
    ];
    KNOWN.contains(&field)
}
