//! Istio's MeshConfig: the fields that are honoured, and the names of those that are known.

use serde::Deserialize;
use serde_json::Value;

use super::{
    destination_rule::{ConnectionPoolSettings, H2UpgradePolicy, LocalityLbSetting, OutlierDetection, TcpKeepalive},
    duration::Span,
    telemetry::{AccessLogEncoding, DefaultProviders, MeshProvider, ProxyConfig},
    virtual_service::HttpRetry,
};

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
    pub path_normalization: Option<ProxyPathNormalization>,
    pub default_http_retry_policy: Option<HttpRetry>,
    pub protocol_detection_timeout: Option<Span>,
    pub locality_lb_setting: Option<LocalityLbSetting>,
    pub default_traffic_policy: Option<DefaultTrafficPolicy>,
    pub connect_timeout: Option<Span>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub h2_upgrade_policy: H2UpgradePolicy,
    pub default_virtual_service_export_to: Vec<String>,
    pub default_destination_rule_export_to: Vec<String>,
    pub extension_providers: Vec<MeshProvider>,
    pub default_providers: DefaultProviders,
    pub default_config: ProxyConfig,
    pub enable_tracing: Option<bool>,
    /// Empty: nothing is logged.
    pub access_log_file: Option<String>,
    pub access_log_format: Option<String>,
    pub access_log_encoding: Option<AccessLogEncoding>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ProxyPathNormalization {
    pub normalization: NormalizationType,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NormalizationType {
    #[default]
    Default,
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultTrafficPolicy {
    pub connection_pool: Option<ConnectionPoolSettings>,
    pub outlier_detection: Option<OutlierDetection>,
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
        "ingressClass",
        "ingressService",
        "ingressControllerMode",
        "ingressSelector",
        "enableEnvoyAccessLogService",
        "disableEnvoyListenerLog",
        "defaultConfig",
        "inboundTrafficPolicy",
        "configSources",
        "enableAutoMtls",
        "caCertificates",
        "defaultServiceExportTo",
        "zoneAwareLbSetting",
        "dnsRefreshRate",
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
        "meshMTLS",
        "tlsDefaults",
        "serviceEntryVisibility",
    ];
    KNOWN.contains(&field)
}
