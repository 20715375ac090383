//! Protocols of requests and answers on a connection: the one loop that they share, with its limits,
//! deadlines and drain. What a protocol says is a [`Dialogue`], which does no I/O.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use zeroize::Zeroize;

use super::socket::Stream;

/// Mail servers keep connections for later requests, some for as long as a client of theirs stays, and take
/// one that we close for a failure. It only has to end some time, because a peer may be gone without a word.
const IDLE_DEADLINE: Duration = Duration::from_secs(3600);

/// From the first byte of a request to its last one: mail servers write it at once.
const READ_DEADLINE: Duration = Duration::from_secs(10);

/// For a client that doesn't read its answers.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// How long what a client still sends is read after the last answer. A connection that is closed on unread
/// bytes is reset, and the answer may be lost with it.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes of that.
const MAX_LINGER: usize = 64 * 1024;

/// The buffer that most requests fit in; it grows up to the protocol's limit.
const FIRST_BUFFER: usize = 1024;

/// Answers that are collected for a client that sends many requests at once, before they are written.
const MAX_COLLECTED: usize = 16 * 1024;

/// What goes on after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The next request.
    GoOn,
    /// The connection ends when the answer is written. Without an answer it is reset, so that the client knows it
    /// at once and connects anew for its next request.
    End,
}

/// The bytes are no request of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Garbled;

/// One client's side of a protocol.
pub trait Dialogue: Send {
    /// The longest request in bytes; a client that sends a longer one is cut off.
    const MAX_REQUEST: usize;

    /// What is said before the first request.
    fn greet(&mut self, _answer: &mut Vec<u8>) {}

    /// The length of the first request in the buffer, which is not empty; `None` until it is whole.
    fn cut(&self, buffer: &[u8]) -> Result<Option<usize>, Garbled>;

    /// Answers one request as [`Dialogue::cut`] has cut it: appends the bytes, or none.
    fn answer(&mut self, request: &[u8], answer: &mut Vec<u8>) -> impl Future<Output = Next> + Send;
}

/// Holds a conversation until the client ends it or breaks a limit, or `stop` asks to finish the request at
/// hand.
pub async fn converse<D: Dialogue>(stream: Stream, mut dialogue: D, stop: CancellationToken) {
    let mut conversation = Conversation {
        stream,
        buffer: Buffer::default(),
        answers: Vec::new(),
        since: Instant::now(),
        owes_answer: false,
    };
    // How a connection ends is the client's affair: a broken one has nobody left to tell.
    match conversation.run(&mut dialogue, stop).await {
        Ok(()) if conversation.owes_answer => conversation.stream.reset(),
        Ok(()) => conversation.linger().await,
        Err(error) => debug!(error = %error, "A connection was cut off."),
    }
}

struct Conversation {
    stream: Stream,
    buffer: Buffer,
    answers: Vec<u8>,
    /// When the last request was answered, or the first byte of the present one was read.
    since: Instant,
    /// The last request got no answer.
    owes_answer: bool,
}

impl Conversation {
    async fn run<D: Dialogue>(&mut self, dialogue: &mut D, stop: CancellationToken) -> io::Result<()> {
        dialogue.greet(&mut self.answers);
        // One timer for the whole connection: it is set forward only when it rings, or must ring earlier.
        let timer = tokio::time::sleep(IDLE_DEADLINE);
        let stopped = stop.cancelled();
        tokio::pin!(timer, stopped);
        loop {
            let next = self.answer_all(dialogue).await?;
            self.flush().await?;
            if next == Next::End || stop.is_cancelled() && self.buffer.is_empty() {
                return Ok(());
            }
            let limit = if self.buffer.is_empty() { IDLE_DEADLINE } else { READ_DEADLINE };
            let deadline = self.since + limit;
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            loop {
                let is_idle = self.buffer.is_empty();
                tokio::select! {
                    biased;
                    read = self.buffer.read(&mut self.stream, D::MAX_REQUEST) => {
                        if read? == 0 {
                            return Ok(());
                        }
                        if is_idle {
                            self.since = Instant::now();
                        }
                        break;
                    }
                    () = &mut stopped, if is_idle => return Ok(()),
                    () = &mut timer => {
                        if Instant::now() >= deadline {
                            return Err(io::ErrorKind::TimedOut.into());
                        }
                        timer.as_mut().reset(deadline);
                    }
                }
            }
        }
    }

    /// Answers every whole request that was read.
    async fn answer_all<D: Dialogue>(&mut self, dialogue: &mut D) -> io::Result<Next> {
        while !self.buffer.is_empty() {
            let length = match dialogue.cut(self.buffer.bytes()) {
                Ok(Some(length)) if length <= D::MAX_REQUEST => length,
                Ok(None) if self.buffer.bytes().len() < D::MAX_REQUEST => break,
                Ok(_) => {
                    debug!("A client sent a request that is too long.");
                    return Ok(Next::End);
                }
                Err(Garbled) => {
                    debug!("A client sent what is no request.");
                    return Ok(Next::End);
                }
            };
            let request = self.buffer.bytes().get(..length).unwrap_or_default();
            let before = self.answers.len();
            let next = dialogue.answer(request, &mut self.answers).await;
            // Answers that wait to be written must not be lost by a reset.
            self.owes_answer = next == Next::End && before == 0 && self.answers.is_empty();
            self.buffer.consume(length);
            self.since = Instant::now();
            if next == Next::End {
                return Ok(Next::End);
            }
            if self.answers.len() >= MAX_COLLECTED {
                self.flush().await?;
            }
        }
        Ok(Next::GoOn)
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.answers.is_empty() {
            return Ok(());
        }
        let written = tokio::time::timeout(WRITE_DEADLINE, self.stream.write_all(&self.answers)).await;
        self.answers.clear();
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Closes our side, and reads on for a moment.
    async fn linger(&mut self) {
        let read_on = async {
            self.stream.shutdown().await?;
            let mut left = MAX_LINGER;
            let mut bytes = [0; 1024];
            while left > 0 {
                match self.stream.read(&mut bytes).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            bytes.zeroize();
            io::Result::Ok(())
        };
        // Nobody is left to be told.
        let _ = tokio::time::timeout(LINGER, read_on).await;
    }
}

/// What was read and not answered yet. There may be passwords in it, so what is no longer needed is zeroed.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl Buffer {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads more, up to `max` bytes in all; an idle connection has no memory until there is something.
    async fn read(&mut self, stream: &mut Stream, max: usize) -> io::Result<usize> {
        if self.0.capacity() == 0 {
            stream.readable().await?;
        }
        if self.0.len() == self.0.capacity() {
            self.grow((self.0.capacity() * 2).clamp(FIRST_BUFFER.min(max), max));
        }
        // The buffer has room: a longer request was cut off before.
        stream.read_buf(&mut self.0).await
    }

    fn grow(&mut self, capacity: usize) {
        let mut larger = Vec::with_capacity(capacity);
        larger.extend_from_slice(&self.0);
        self.0.zeroize();
        self.0 = larger;
    }

    fn consume(&mut self, length: usize) {
        let rest = self.0.len().saturating_sub(length);
        self.0.copy_within(length.., 0);
        if let Some(used) = self.0.get_mut(rest..) {
            used.zeroize();
        }
        self.0.truncate(rest);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::VecDeque;

    use tokio::net::UnixStream;

    use super::*;

    /// What a client gets that sends these pieces one after the other, each read alone, and then closes.
    pub(crate) async fn exchange<D: Dialogue + 'static>(dialogue: D, pieces: &[&[u8]]) -> Vec<u8> {
        let (mut client, server) = UnixStream::pair().unwrap();
        let stop = CancellationToken::new();
        let conversation = tokio::spawn(converse(Stream::Unix(server), dialogue, stop));
        let (mut read, mut write) = client.split();
        let writing = async {
            for piece in pieces {
                // The server may have said all that it wants to.
                if write.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            let _ = write.shutdown().await;
        };
        let reading = async {
            let mut answers = Vec::new();
            // A reset follows what was answered before it.
            let _ = read.read_to_end(&mut answers).await;
            answers
        };
        let ((), answers) = tokio::join!(writing, reading);
        conversation.await.unwrap();
        answers
    }

    /// Checks that the answers to a stream of requests are the same in whatever pieces it comes: whole, and
    /// split at every byte.
    pub(crate) async fn check_split<D: Dialogue + 'static>(
        dialogue: impl Fn() -> D,
        requests: &[u8],
        expected: &[u8],
    ) {
        let shown = |answer: &[u8]| answer.escape_ascii().to_string();
        let whole = exchange(dialogue(), &[requests]).await;
        assert_eq!(shown(&whole), shown(expected), "{}", shown(requests));
        for at in 1..requests.len() {
            let (one, other) = requests.split_at(at);
            let split = exchange(dialogue(), &[one, other]).await;
            assert_eq!(shown(&split), shown(expected), "{} split at {at}", shown(requests));
        }
        let bytes: Vec<&[u8]> = requests.chunks(1).collect();
        let trickled = exchange(dialogue(), &bytes).await;
        assert_eq!(shown(&trickled), shown(expected), "{} byte by byte", shown(requests));
    }

    /// Lines; each is said back in capitals. `end` ends it, and `slow` takes a while.
    struct Echo;

    impl Dialogue for Echo {
        const MAX_REQUEST: usize = 4096;

        fn greet(&mut self, answer: &mut Vec<u8>) {
            answer.extend_from_slice(b"hello\n");
        }

        fn cut(&self, buffer: &[u8]) -> Result<Option<usize>, Garbled> {
            match buffer.iter().position(|byte| *byte == b'\n') {
                Some(0) => Err(Garbled),
                at => Ok(at.map(|at| at + 1)),
            }
        }

        async fn answer(&mut self, request: &[u8], answer: &mut Vec<u8>) -> Next {
            if request == b"slow\n" {
                tokio::time::sleep(Duration::from_secs(4)).await;
            }
            answer.extend(request.to_ascii_uppercase());
            if request == b"end\n" { Next::End } else { Next::GoOn }
        }
    }

    #[tokio::test]
    async fn requests_come_in_any_pieces() {
        check_split(|| Echo, b"a\nbc\nend\n", b"hello\nA\nBC\nEND\n").await;
        check_split(|| Echo, b"a\nend\nlater\n", b"hello\nA\nEND\n").await;
        check_split(|| Echo, b"a\n\nb\n", b"hello\nA\n").await;
        check_split(|| Echo, b"a\ntruncated", b"hello\nA\n").await;
    }

    #[tokio::test]
    async fn requests_have_a_limit() {
        let line = |length: usize| [vec![b'x'; length - 1], b"\n".to_vec()].concat();
        let most = exchange(Echo, &[&line(4096), b"end\n"]).await;
        assert_eq!(most.len(), 6 + 4096 + 4);
        assert_eq!(exchange(Echo, &[&line(4097)]).await, b"hello\n");
        assert_eq!(exchange(Echo, &[&vec![b'x'; 1_000_000]]).await, b"hello\n");
        // Many requests at once are no long request.
        let many = b"ab\n".repeat(100_000);
        assert_eq!(exchange(Echo, &[&many]).await.len(), 6 + many.len());
    }

    struct Client {
        stream: UnixStream,
        stop: CancellationToken,
        conversation: tokio::task::JoinHandle<()>,
    }

    async fn client() -> Client {
        let (mut stream, server) = UnixStream::pair().unwrap();
        let stop = CancellationToken::new();
        let conversation = tokio::spawn(converse(Stream::Unix(server), Echo, stop.clone()));
        stream.read_exact(&mut [0; 6]).await.unwrap();
        Client { stream, stop, conversation }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_its_deadline() {
        for (sent, deadline) in [(&b""[..], IDLE_DEADLINE), (b"half", READ_DEADLINE)] {
            let mut client = client().await;
            client.stream.write_all(sent).await.unwrap();
            let start = Instant::now();
            client.conversation.await.unwrap();
            assert!(start.elapsed() >= deadline && start.elapsed() < deadline + Duration::from_secs(2));
        }
        // One that sends its request byte by byte has as much time for the whole as any other.
        let mut client = client().await;
        let start = Instant::now();
        while client.stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        assert!(start.elapsed() < READ_DEADLINE + Duration::from_secs(7), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn every_request_has_the_whole_time() {
        let mut client = client().await;
        for _ in 0..20 {
            client.stream.write_all(b"a").await.unwrap();
            tokio::time::sleep(Duration::from_secs(9)).await;
            client.stream.write_all(b"\n").await.unwrap();
            client.stream.read_exact(&mut [0; 2]).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_reads_is_cut_off() {
        let client = client().await;
        let (read, mut write) = client.stream.into_split();
        let lines = b"abcdefg\n".repeat(1000);
        while write.write_all(&lines).await.is_ok() {}
        client.conversation.await.unwrap();
        drop(read);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_finishes_the_request_at_hand() {
        let mut idle = client().await;
        idle.stop.cancel();
        idle.conversation.await.unwrap();
        assert_eq!(idle.stream.read(&mut [0; 9]).await.unwrap(), 0);

        for pieces in [VecDeque::from([&b"slow\n"[..]]), VecDeque::from([&b"ha"[..], b"lf\n"])] {
            let mut busy = client().await;
            let mut pieces = pieces;
            busy.stream.write_all(pieces.pop_front().unwrap()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            busy.stop.cancel();
            for piece in pieces {
                busy.stream.write_all(piece).await.unwrap();
            }
            let mut answers = Vec::new();
            busy.stream.read_to_end(&mut answers).await.unwrap();
            assert!(answers == b"SLOW\n" || answers == b"HALF\n", "{}", answers.escape_ascii());
        }
    }
}
