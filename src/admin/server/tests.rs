//! The routes, over a real service.

use axum::body::to_bytes;
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::super::fixture::Fixture;
use super::*;

async fn ask(fixture: &Fixture, request: &str) -> (u16, Value) {
    let (method, path) = request.split_once(' ').unwrap();
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = fixture.router().oneshot(request).await.unwrap();
    let status = response.status();
    let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
    assert_eq!(response.headers()["content-type"], kind);
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status.as_u16(), serde_json::from_slice(&body).unwrap())
}

/// Asks, expects a success, and gives its document.
async fn get(fixture: &Fixture, path: &str) -> Value {
    let (status, body) = ask(fixture, &format!("GET {path}")).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

async fn check_problem(fixture: &Fixture, request: &str, status: u16, part: &str) {
    let (answered, body) = ask(fixture, request).await;
    let detail = body["detail"].as_str().unwrap_or_default();
    assert!(answered == status && detail.contains(part), "{request}: {answered} {body}");
    assert_eq!(body["status"], status);
}

fn names(body: &Value) -> Vec<&str> {
    body["users"].as_array().unwrap().iter().map(|user| user["user"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn status_shows_the_whole() {
    let fixture = Fixture::new(4).await;
    let status = get(&fixture, "/v1/status").await;
    assert_eq!(status["seats"], json!({"limit": 2, "used": 0, "free": 2, "over_limit": false}));
    assert_eq!(status["users"]["total"], 4);
    assert_eq!(status["directories"][0]["name"], "corp");
    assert_eq!(status["directories"][0]["state"], "idle");
}

#[tokio::test]
async fn users_are_filtered_and_sorted() {
    let fixture = Fixture::new(4).await;
    ask(&fixture, "PUT /v1/seats/u2").await;
    let all = ["u1@example.org", "u2@example.org", "u3@example.org", "u4@example.org"];
    assert_eq!(names(&get(&fixture, "/v1/users").await), all);
    assert_eq!(names(&get(&fixture, "/v1/users?seated=true").await), ["u2@example.org"]);
    let others = get(&fixture, "/v1/users?seated=false&sort=last-login&domain=Example.org").await;
    assert_eq!(names(&others), ["u1@example.org", "u3@example.org", "u4@example.org"]);
    assert_eq!(names(&get(&fixture, "/v1/users?sort=granted").await)[0], "u2@example.org");
    for nobody in ["inactive=180d", "domain=example.net"] {
        assert_eq!(get(&fixture, &format!("/v1/users?{nobody}")).await, json!({"users": []}));
    }
}

#[tokio::test]
async fn many_users_come_in_pieces() {
    let fixture = Fixture::new(2000).await;
    let request = Request::get("/v1/users").body(Body::empty()).unwrap();
    let mut body = fixture.router().oneshot(request).await.unwrap().into_body();
    let mut whole = Vec::new();
    let mut pieces = 0;
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        let piece = frame.unwrap().into_data().unwrap();
        assert!(piece.len() < 66 * 1024, "{}", piece.len());
        whole.extend_from_slice(&piece);
        pieces += 1;
    }
    assert!(pieces > 3, "{pieces}");
    assert_eq!(names(&serde_json::from_slice(&whole).unwrap()).len(), 2000);
}

#[tokio::test]
async fn one_user_is_explained() {
    let fixture = Fixture::new(4).await;
    ask(&fixture, "PUT /v1/seats/u1").await;
    let explanation = get(&fixture, "/v1/users/u1%40example.org").await;
    assert_eq!(explanation["counts"], true);
    assert_eq!(explanation["seat"]["by"], "administrator");
    assert_eq!(explanation["login_now"]["decision"], "held");
    let disabled = get(&fixture, "/v1/users/u3").await;
    assert_eq!(disabled["login_now"]["decision"], "disabled");
    check_problem(&fixture, "GET /v1/users/u9", 404, "there is no user u9@example.org").await;
    check_problem(&fixture, "GET /v1/users/a%0ab", 400, "control character").await;
    check_problem(&fixture, "GET /v1/users/a%ff", 400, "the path is wrong").await;
}

#[tokio::test]
async fn seats_are_granted_and_released() {
    let fixture = Fixture::new(4).await;
    let granted = json!({"user": "u1@example.org", "outcome": "granted", "done": true,
        "message": "A seat was granted.", "seats_used": 1});
    assert_eq!(ask(&fixture, "PUT /v1/seats/u1").await, (200, granted));
    assert_eq!(ask(&fixture, "PUT /v1/seats/u1").await.1["outcome"], "held");
    assert_eq!(ask(&fixture, "PUT /v1/seats/u2").await.0, 200);
    check_problem(
        &fixture,
        "PUT /v1/seats/u4",
        409,
        "u4@example.org gets no seat (exhausted): 2 of 2 seats are used.",
    )
    .await;
    check_problem(&fixture, "PUT /v1/seats/u3", 409, "(disabled)").await;
    check_problem(&fixture, "PUT /v1/seats/all", 409, "(not_a_person)").await;
    check_problem(&fixture, "PUT /v1/seats/u9", 404, "there is no user").await;
    assert_eq!(ask(&fixture, "DELETE /v1/seats/u1").await.1["outcome"], "released");
    let again = ask(&fixture, "DELETE /v1/seats/u1").await;
    assert_eq!((again.0, &again.1["outcome"]), (200, &json!("not_seated")));
    check_problem(&fixture, "DELETE /v1/seats/u9", 404, "there is no user").await;

    let lines = |body: Value| {
        let lines = body["history"].as_array().unwrap().iter();
        lines.map(|line| format!("{} {}", line["event"], line["user"])).collect::<Vec<_>>().join(" ")
    };
    let all = lines(get(&fixture, "/v1/history").await).replace('"', "");
    assert_eq!(all, "released u1@example.org granted u2@example.org granted u1@example.org");
    assert_eq!(lines(get(&fixture, "/v1/history?user=u2").await), r#""granted" "u2@example.org""#);
    assert_eq!(lines(get(&fixture, "/v1/history?limit=1").await), r#""released" "u1@example.org""#);
    check_problem(&fixture, "GET /v1/history?user=u9", 404, "there is no user").await;
    assert_eq!(get(&fixture, "/v1/verify").await, json!({"clean": true, "findings": []}));
}

#[tokio::test]
async fn a_seat_is_moved() {
    let fixture = Fixture::new(4).await;
    ask(&fixture, "PUT /v1/seats/u1").await;
    ask(&fixture, "PUT /v1/seats/u2").await;
    for (old, new, problem) in [
        ("u1", "u2", "holds a seat of its own"),
        ("u1", "u3", "the new entry is disabled"),
        ("u1", "all", "not a person"),
        ("u1", "u1", "both are the same user"),
        ("u4", "u1", "nothing that the new one could get"),
    ] {
        check_problem(&fixture, &format!("POST /v1/moves?old={old}&new={new}"), 409, problem).await;
    }
    let (status, report) = ask(&fixture, "POST /v1/moves?old=u1&new=u4").await;
    assert_eq!((status, &report["moved_total"], &report["seats_used"]), (200, &json!(1), &json!(2)));
    assert_eq!(report["moved"][0]["old"]["user"], "u1@example.org");
    let line = &get(&fixture, "/v1/history?user=u4&limit=1").await["history"][0];
    assert_eq!((&line["event"], &line["reason"]), (&json!("moved"), &json!("from u1@example.org")));
    assert_eq!(get(&fixture, "/v1/users/u4").await["login_now"]["decision"], "held");
    assert_eq!(get(&fixture, "/v1/verify").await, json!({"clean": true, "findings": []}));
}

#[tokio::test]
async fn directories_are_synced() {
    let fixture = Fixture::new(1).await;
    fixture.add_loop("broken");
    fixture.add_stuck("stuck");
    let started = (202, json!({"started": true}));
    assert_eq!(ask(&fixture, "POST /v1/directories/corp/sync").await, started);
    assert_eq!(ask(&fixture, "POST /v1/directories/corp/approve").await, started);
    let (status, report) = ask(&fixture, "POST /v1/directories/corp/sync?wait=true").await;
    assert_eq!((status, &report["added"], &report["dry_run"]), (200, &json!(1), &json!(false)));
    let (status, report) = ask(&fixture, "POST /v1/directories/corp/sync?dry_run=true").await;
    assert_eq!((status, &report["dry_run"]), (200, &json!(true)));
    assert_eq!(ask(&fixture, "POST /v1/directories/corp/approve?wait=true").await.0, 200);
    check_problem(&fixture, "POST /v1/directories/lab/sync", 404, "no directory \"lab\"").await;
    let failure = "the server refused the password";
    check_problem(&fixture, "POST /v1/directories/broken/sync?wait=true", 502, failure).await;
    check_problem(&fixture, "POST /v1/directories/stuck/sync", 503, "try again later").await;
}

#[tokio::test]
async fn the_licence_is_shown() {
    let fixture = Fixture::new(1).await;
    let license = get(&fixture, "/v1/license").await;
    assert_eq!(
        (&license["state"], &license["seats"], &license["declared"]),
        (&json!("active"), &json!(2), &json!(true))
    );
    assert_eq!(license["components"], json!([]));
    check_problem(&fixture, "PUT /v1/license?forced=true", 400, "unknown field `forced`").await;
    check_problem(&fixture, "POST /v1/license/activate", 400, "the body is wrong at line 1").await;
    // Nobody keeps the licence here.
    check_problem(&fixture, "POST /v1/license/refresh", 502, "stopping").await;
}

#[tokio::test]
async fn wrong_requests_are_problems() {
    let fixture = Fixture::new(1).await;
    for (request, status, part) in [
        ("GET /v1/users?seat=true", 400, "unknown field `seat`"),
        ("GET /v1/users?seated=maybe", 400, "seated"),
        ("GET /v1/users?sort=age", 400, "unknown variant `age`"),
        ("GET /v1/users?inactive=soon", 400, "write it like 180d"),
        ("GET /v1/status?x=1", 400, "unknown field `x`"),
        ("GET /v1/history?limit=10001", 400, "at most 10000"),
        ("GET /v1/history?limit=-1", 400, "limit"),
        ("POST /v1/directories/corp/sync?whole=true", 400, "unknown field `whole`"),
        ("POST /v1/directories/corp/approve?dry_run=true", 400, "unknown field `dry_run`"),
        ("PUT /v1/seats/u1?x=1", 400, "unknown field `x`"),
        ("GET /v1/seats/u1", 405, "does not take GET"),
        ("POST /v1/directories/corp/approve?match=name", 400, "unknown variant `name`"),
        ("POST /v1/moves?match=mail&from=corp", 400, "give old and new, or match, from and to"),
        ("POST /v1/moves?old=u1&new=u2&dry_run=true", 400, "give old and new"),
        ("POST /v1/moves?match=mail&from=lab&to=corp", 404, "nothing is stored of a directory \"lab\""),
        ("POST /v1/moves?old=u1&new=u9", 404, "there is no user u9@example.org"),
        ("DELETE /v1/directories/corp", 409, "\"corp\" is in the configuration"),
        ("DELETE /v1/directories/lab?dry_run=true", 404, "nothing is stored of a directory \"lab\""),
        ("DELETE /v1/directories/corp?dry_run=true", 409, "is in the configuration"),
        ("POST /v1/directories/corp/rename?to=lab", 409, "is in the configuration"),
        ("POST /v1/directories/lab/rename?to=corp", 404, "nothing is stored"),
        ("POST /v1/directories/lab/rename", 400, "missing field `to`"),
        ("GET /v1/nothing", 404, "there is nothing at /v1/nothing"),
    ] {
        check_problem(&fixture, request, status, part).await;
    }
}
