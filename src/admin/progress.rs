//! How far a sync is, on a terminal, while somebody waits for its end.

use std::io::{self, Write};
use std::time::Duration;

use axum::http::Method;
use tokio::time::{Instant, MissedTickBehavior};

use super::client::{Client, ClientError, Response};
use super::output;
use crate::service::answers::Status;

/// Often enough to be watched, and seldom enough to cost nothing.
const EVERY: Duration = Duration::from_millis(500);

/// Erases from the cursor to the end of the line (ECMA-48 section 8.3.41).
const ERASE: &str = "\x1b[K";

/// Waits for an answer, and shows meanwhile how far the directory is, in one line that leaves no trace.
pub(super) async fn shown(
    client: &Client,
    directory: &str,
    answer: impl Future<Output = Result<Response, ClientError>>,
    terminal: &mut dyn Write,
) -> io::Result<Result<Response, ClientError>> {
    let began = Instant::now();
    let mut ticks = tokio::time::interval_at(began + EVERY, EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(answer);
    let mut is_shown = false;
    loop {
        let look = async {
            ticks.tick().await;
            let answer = client.request(Method::GET, "/v1/status").await?;
            client.decode::<Status>(&answer)
        };
        let status = tokio::select! {
            biased;
            answer = &mut answer => {
                if is_shown {
                    write!(terminal, "\r{ERASE}")?;
                    terminal.flush()?;
                }
                return Ok(answer);
            }
            status = look => status,
        };
        // What is wrong with the daemon, the answer says.
        let directories = status.map(|status| status.directories).unwrap_or_default();
        if let Some(directory) = directories.iter().find(|known| known.name == directory) {
            write!(terminal, "\r{}{ERASE}", output::progress(directory, began.elapsed()))?;
            terminal.flush()?;
            is_shown = true;
        }
    }
}
