//! `meshctl routes`: the compiled rules of a service, in the order in which they are tried.

use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use mesh_policy::model::{
    ClientMatch, ConnectionMatch, HttpRule, HttpSettings, Routes, Service, Snapshot, Target, TcpRule, TlsRule,
};

use crate::{
    Outcome,
    ask::{nothing, service},
    discover::Search,
    mesh::FromFiles,
    output::Printer,
    table::{Cell, Table},
    words::{action, backends, conditions, limit, retry},
};

#[derive(Debug, Args)]
pub(crate) struct RoutesArgs {
    /// NAMESPACE/NAME or host name of a service
    service: String,

    /// The rules of this port only
    #[arg(long)]
    port: Option<u16>,

    /// The rules for clients in this namespace only: its own, else everybody's
    #[arg(long, value_name = "NAMESPACE")]
    from: Option<String>,

    #[command(flatten)]
    files: FromFiles,
}

pub(crate) async fn routes(search: &Search, arguments: RoutesArgs, printer: &Printer) -> Result<Outcome> {
    let known = arguments.files.models(search, printer).await?;
    let Some((snapshot, service)) =
        known.iter().find_map(|known| Some((&known.snapshot, service(&known.snapshot, &arguments.service)?)))
    else {
        return Err(known
            .first()
            .map_or_else(|| anyhow::anyhow!("no node answered"), |known| nothing(&known.snapshot, &arguments.service)));
    };
    let found = of_service(snapshot, service, arguments.port, arguments.from.as_deref());
    if found.is_empty() {
        printer.note(&format!("{} has no rules: what is sent to it goes to its endpoints", service.key()));
    }
    let values = found.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    printer.list(&table(&found, snapshot.http()), values)?;
    Ok(Outcome::Complete)
}

fn of_service<'a>(snapshot: &'a Snapshot, service: &Service, port: Option<u16>, from: Option<&str>) -> Vec<&'a Routes> {
    let key = service.key();
    let all = snapshot.model().routes.values().filter(|routes| routes.key.service == key);
    let all = all.filter(|routes| port.is_none_or(|port| routes.key.port == port));
    let Some(from) = from.map(Arc::<str>::from) else { return all.map(|routes| &**routes).collect() };
    let is_for =
        |routes: &&Arc<Routes>| snapshot.routes(&key, routes.key.port, &from).is_some_and(|applying| applying.key == routes.key);
    all.filter(is_for).map(|routes| &**routes).collect()
}

pub(super) fn table(found: &[&Routes], settings: &HttpSettings) -> Table {
    let mut table = Table::new(&["PORT", "CLIENTS", "ORIGIN", "MATCH", "ACTION", "TIMEOUT", "RETRIES"]);
    for routes in found {
        let Routes { key, http, tls, tcp } = routes;
        let clients = key.consumer.as_ref().map_or_else(|| "all".to_owned(), |namespace| format!("in {namespace}"));
        let mut add = |cells: [String; 5]| {
            let place = [key.port.to_string(), clients.clone()];
            table.add_row(place.into_iter().chain(cells).map(Cell::new).collect());
        };
        let http = http.iter().map(|rule| http_cells(rule, settings));
        http.chain(tls.iter().map(tls_cells)).chain(tcp.iter().map(tcp_cells)).for_each(&mut add);
    }
    table
}

fn http_cells(rule: &HttpRule, settings: &HttpSettings) -> [String; 5] {
    let HttpRule { name: _, origin, matches, action: done } = rule;
    let forwards = matches!(done.target, Target::Forward(_));
    let timeout = if forwards { limit(done.timeout) } else { String::new() };
    let retries = match &done.retry {
        _ if !forwards => String::new(),
        Some(own) => retry(own),
        None => format!("{} (default)", retry(&settings.retry)),
    };
    [origin.to_string(), conditions(matches), action(done), timeout, retries]
}

fn tls_cells(rule: &TlsRule) -> [String; 5] {
    let TlsRule { origin, sni, when, backends: to } = rule;
    let names = if sni.is_empty() { "any TLS".to_owned() } else { format!("SNI {}", sni.join(" or ")) };
    let rest = connection(when).map(|rest| format!(" and {rest}")).unwrap_or_default();
    [origin.to_string(), format!("{names}{rest}"), backends(to), String::new(), String::new()]
}

fn tcp_cells(rule: &TcpRule) -> [String; 5] {
    let TcpRule { origin, when, backends: to } = rule;
    [origin.to_string(), connection(when).unwrap_or_else(|| "any".to_owned()), backends(to), String::new(), String::new()]
}

fn connection(when: &ConnectionMatch) -> Option<String> {
    let ConnectionMatch { clients, destination_subnets, source_subnets } = when;
    let any = |name: &str, texts: Vec<String>| (!texts.is_empty()).then(|| format!("{name} {}", texts.join(" or ")));
    let client = |ClientMatch { namespace, labels }: &ClientMatch| {
        let namespace = namespace.as_ref().map(|namespace| format!("in {namespace}"));
        namespace.into_iter().chain(labels.iter().map(|(name, value)| format!("{name}={value}"))).collect::<Vec<_>>().join(", ")
    };
    let parts = [
        any("client", clients.iter().map(client).collect()),
        any("to", destination_subnets.iter().map(ToString::to_string).collect()),
        any("from", source_subnets.iter().map(ToString::to_string).collect()),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" and "))
}
