//! `/` in JSON or HTML, as the visitor accepts; `/json` and `/page` where one form is wanted.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use hyper::{HeaderMap, Uri, header::ACCEPT};
use serde_json::{Value, json};

use crate::{
    common::{self, Reply, ServerOptions},
    fetch, trace,
};

/// The only book in the shop.
const BOOK: &str = "0";

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    server: ServerOptions,
    /// Where the details service is
    #[arg(long, env = "DETAILS", default_value = "http://details:9080")]
    details: Uri,
    /// Where the reviews service is
    #[arg(long, env = "REVIEWS", default_value = "http://reviews:9080")]
    reviews: Uri,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let Options { server, details, reviews } = options;
    common::run("page", &server, move |question, instance| {
        let (details, reviews) = (details.clone(), reviews.clone());
        async move {
            let html = match question.path.as_str() {
                "/" => wants_html(&question.headers) && question.query != "json",
                "/page" => true,
                "/json" => false,
                _ => return Reply::NotFound,
            };
            let headers = trace::handed_on(&question.headers);
            let (detail_path, review_path) = (format!("/details/{BOOK}"), format!("/reviews/{BOOK}"));
            // Both at once. A part that fails says so on the page; the page itself comes.
            let (details, reviews) =
                tokio::join!(fetch::ask(&details, &detail_path, headers.clone()), fetch::ask(&reviews, &review_path, headers),);
            let page = json!({ "details": details, "reviews": reviews, "served_by": instance });
            if html { Reply::Html(render(&page)) } else { Reply::Json(page) }
        }
    })
    .await
}

fn wants_html(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

fn render(page: &Value) -> String {
    let mut html =
        String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Book shop</title></head><body>\n");
    let details = &page["details"];
    if let Some(error) = details["error"].as_str() {
        let _ = writeln!(html, "<h1>Sorry, details are currently unavailable</h1><p>{}</p>", escape(error));
    } else {
        let _ = writeln!(html, "<h1>{}</h1>\n<dl>", escape(&plain(&details["title"])));
        for (label, key) in [("Author", "author"), ("Year", "year"), ("Pages", "pages"), ("Language", "language")] {
            let _ = writeln!(html, "<dt>{label}</dt><dd>{}</dd>", escape(&plain(&details[key])));
        }
        html += "</dl>\n";
    }
    let reviews = &page["reviews"];
    if let Some(error) = reviews["error"].as_str() {
        let _ = writeln!(html, "<h2>Sorry, reviews are currently unavailable</h2><p>{}</p>", escape(error));
    } else {
        html += "<h2>Reviews</h2>\n";
        for review in reviews["reviews"].as_array().into_iter().flatten() {
            let rating = &review["rating"];
            let stars = rating["stars"].as_u64().map_or_else(String::new, |stars| {
                let color = escape(rating["color"].as_str().unwrap_or("black"));
                format!(" <span style=\"color:{color}\">{}</span>", "★".repeat(stars.min(5) as usize))
            });
            let apology = rating["error"].as_str().map_or_else(String::new, |error| format!(" <em>{}</em>", escape(error)));
            let (text, who) = (escape(&plain(&review["text"])), escape(&plain(&review["reviewer"])));
            let _ = writeln!(html, "<blockquote>{text} — {who}{stars}{apology}</blockquote>");
        }
        let served_by = &reviews["served_by"];
        let _ = writeln!(
            html,
            "<p>Reviews served by {} {}</p>",
            escape(&plain(&served_by["pod"])),
            escape(&plain(&served_by["version"]))
        );
    }
    html + "</body></html>\n"
}

/// A value as a reader wants it: strings without quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_stars_and_failures() {
        let page = json!({
            "details": { "error": "<denied>" },
            "reviews": {
                "reviews": [{ "reviewer": "R", "text": "Good.", "rating": { "stars": 2, "color": "red" } }],
                "served_by": { "pod": "reviews-v3", "version": "v3" },
            },
        });
        let html = render(&page);
        assert!(html.contains("details are currently unavailable</h1><p>&lt;denied&gt;</p>"), "{html}");
        assert!(html.contains("<span style=\"color:red\">★★</span>"), "{html}");
        assert!(html.contains("served by reviews-v3 v3"), "{html}");
    }
}
