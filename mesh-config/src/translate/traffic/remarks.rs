//! What a DestinationRule says that is not followed, or not in the way that it reads.

use crate::{
    kinds::{
        DestinationRuleSpec,
        destination_rule::{
            ClientTlsSettings, ConnectionPoolSettings, LoadBalancerSettings, OutlierDetection, SimpleLb, TlsMode, TrafficPolicy,
        },
    },
    status::{Code, Level, Message},
};

pub(super) fn remarks(spec: &DestinationRuleSpec) -> Vec<Message> {
    let mut out = Remarks(Vec::new());
    if spec.workload_selector.is_some() {
        out.tell(Level::Error, "spec.workloadSelector", "a rule for some of the clients is not followed at all");
    }
    if let Some(policy) = &spec.traffic_policy {
        out.policy("spec.trafficPolicy", policy, None);
    }
    for (index, subset) in spec.subsets.iter().enumerate() {
        if let Some(policy) = &subset.traffic_policy {
            out.policy(&format!("spec.subsets[{index}].trafficPolicy"), policy, spec.traffic_policy.as_ref());
        }
    }
    out.0
}

struct Remarks(Vec<Message>);

impl Remarks {
    fn tell(&mut self, level: Level, field: impl Into<String>, text: &str) {
        self.0.push(Message::new(level, Code::NotHonoured, field, text));
    }

    /// `above`: the rule's policy, of which a subset takes what it does not say.
    fn policy(&mut self, at: &str, policy: &TrafficPolicy, above: Option<&TrafficPolicy>) {
        let outlier = policy.outlier_detection.is_some() || above.is_some_and(|above| above.outlier_detection.is_some());
        self.level(
            at,
            policy.load_balancer.as_ref(),
            policy.connection_pool.as_ref(),
            policy.outlier_detection.as_ref(),
            policy.tls.as_ref(),
            outlier,
        );
        for (index, settings) in policy.port_level_settings.iter().enumerate() {
            self.level(
                &format!("{at}.portLevelSettings[{index}]"),
                settings.load_balancer.as_ref(),
                settings.connection_pool.as_ref(),
                settings.outlier_detection.as_ref(),
                settings.tls.as_ref(),
                settings.outlier_detection.is_some(),
            );
        }
        if policy.tunnel.is_some() {
            self.tell(Level::Error, format!("{at}.tunnel"), "connections are not tunneled");
        }
        if policy.proxy_protocol.is_some() {
            self.tell(Level::Error, format!("{at}.proxyProtocol"), "the PROXY protocol is not spoken");
        }
    }

    fn level(
        &mut self,
        at: &str,
        balancer: Option<&LoadBalancerSettings>,
        pool: Option<&ConnectionPoolSettings>,
        detection: Option<&OutlierDetection>,
        tls: Option<&ClientTlsSettings>,
        outlier: bool,
    ) {
        if let Some(balancer) = balancer {
            self.balancer(&format!("{at}.loadBalancer"), balancer, outlier);
        }
        if pool.and_then(|pool| pool.tcp.as_ref()).is_some_and(|tcp| tcp.tcp_keepalive.is_some()) {
            let field = format!("{at}.connectionPool.tcp.tcpKeepalive");
            self.tell(Level::Info, field, "tunnels are probed every 10 s in any case; other connections are not probed");
        }
        if pool.and_then(|pool| pool.http.as_ref()).is_some_and(|http| http.http2_keep_alive.is_some()) {
            let field = format!("{at}.connectionPool.http.http2KeepAlive");
            self.tell(Level::Info, field, "tunnels are probed every 10 s in any case");
        }
        if detection.is_some_and(|detection| detection.consecutive_errors != 0) {
            let text = "write consecutive5xxErrors or consecutiveGatewayErrors: this field has no effect in Istio either";
            self.tell(Level::Warning, format!("{at}.outlierDetection.consecutiveErrors"), text);
        }
        match tls.map(|tls| tls.mode) {
            Some(TlsMode::Simple | TlsMode::Mutual) => {
                self.tell(Level::Error, format!("{at}.tls.mode"), "TLS is not originated in this version");
            }
            Some(TlsMode::Disable) => {
                let text = "workloads of the mesh are reached by HBONE and mutual TLS nevertheless";
                self.tell(Level::Info, format!("{at}.tls.mode"), text);
            }
            Some(TlsMode::IstioMutual) | None => {}
        }
    }

    fn balancer(&mut self, at: &str, found: &LoadBalancerSettings, outlier: bool) {
        if let Some(hash) = &found.consistent_hash {
            let keyed = hash.http_header_name.is_some()
                || hash.http_cookie.is_some()
                || hash.http_query_parameter_name.is_some()
                || hash.use_source_ip == Some(true);
            if !keyed {
                self.tell(Level::Warning, format!("{at}.consistentHash"), "nothing is named to hash: balanced by least request");
            }
            if hash.http_cookie.as_ref().is_some_and(|cookie| !cookie.attributes.is_empty()) {
                let text = "cookies are issued without these";
                self.tell(Level::Warning, format!("{at}.consistentHash.httpCookie.attributes"), text);
            }
        }
        if found.zone_aware_lb_setting.is_some() {
            let text = "not followed: use localityLbSetting or the Service's trafficDistribution";
            self.tell(Level::Error, format!("{at}.zoneAwareLbSetting"), text);
        }
        let warms = found.consistent_hash.is_none() && !matches!(found.simple, Some(SimpleLb::Random | SimpleLb::Passthrough));
        let warmup = [("warmup", found.warmup.is_some()), ("warmupDurationSecs", found.warmup_duration_secs.is_some())];
        for (field, _) in warmup.iter().filter(|(_, there)| *there && !warms) {
            self.tell(Level::Warning, format!("{at}.{field}"), "only LEAST_REQUEST and ROUND_ROBIN warm up");
        }
        let Some(setting) = &found.locality_lb_setting else { return };
        let fails_over = setting.enabled != Some(false) && setting.distribute.is_empty();
        if fails_over && !outlier {
            let text = "without outlierDetection nothing fails over: endpoints are chosen wherever they are";
            self.tell(Level::Warning, format!("{at}.localityLbSetting"), text);
        }
        if !setting.failover.is_empty() && !setting.failover_priority.is_empty() {
            self.tell(Level::Warning, format!("{at}.localityLbSetting.failover"), "failoverPriority alone is followed");
        }
    }
}
