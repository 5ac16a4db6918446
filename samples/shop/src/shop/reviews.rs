//! `/reviews/ID`: what readers think. Version v1 shows no stars, v2 black ones, v3 red ones.

use anyhow::Result;
use clap::Args;
use hyper::Uri;
use serde_json::{Value, json};

use crate::{
    common::{self, Reply, ServerOptions},
    fetch, trace,
};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    server: ServerOptions,
    /// Where the ratings service is
    #[arg(long, env = "RATINGS", default_value = "http://ratings:9080")]
    ratings: Uri,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    let Options { server, ratings } = options;
    common::run("reviews", &server, move |question, instance| {
        let ratings = ratings.clone();
        async move {
            let Some(id) = question.path.strip_prefix("/reviews/") else { return Reply::NotFound };
            let color = match instance.version.as_str() {
                "v1" => None,
                "v3" => Some("red"),
                _ => Some("black"),
            };
            let mut reviews = json!([
                { "reviewer": "Reviewer1", "text": "An extremely entertaining play. The slapstick humour is refreshing!" },
                { "reviewer": "Reviewer2", "text": "Absolutely fun and entertaining." },
            ]);
            if let Some(color) = color {
                let answer = fetch::ask(&ratings, &format!("/ratings/{id}"), trace::handed_on(&question.headers)).await;
                add_stars(&mut reviews, &answer, color);
                return Reply::Json(json!({ "id": id, "reviews": reviews, "ratings": answer, "served_by": instance }));
            }
            Reply::Json(json!({ "id": id, "reviews": reviews, "served_by": instance }))
        }
    })
    .await
}

fn add_stars(reviews: &mut Value, answer: &Value, color: &str) {
    for review in reviews.as_array_mut().into_iter().flatten() {
        let reviewer = review["reviewer"].as_str().unwrap_or_default().to_owned();
        review["rating"] = match answer["ratings"].get(&reviewer) {
            Some(stars) => json!({ "stars": stars, "color": color }),
            None => json!({ "error": "Ratings service is currently unavailable" }),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_or_an_apology() {
        let mut reviews = json!([{ "reviewer": "Reviewer1" }, { "reviewer": "Reviewer3" }]);
        add_stars(&mut reviews, &json!({ "ratings": { "Reviewer1": 5 } }), "red");
        assert_eq!(reviews[0]["rating"], json!({ "stars": 5, "color": "red" }));
        assert!(reviews[1]["rating"]["error"].is_string());
    }
}
