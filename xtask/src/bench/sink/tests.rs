use super::*;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

/// An answer as it came.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn check(&self, status: &str) -> &Self {
        assert!(self.head.starts_with(&format!("HTTP/1.1 {status} ")), "expected {status}, got\n{}", self.head);
        self
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")))
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

/// A client with one kept-alive connection.
struct Client(TcpStream);

impl Client {
    fn of(sink: &Sink) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", sink.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(stream)
    }

    fn ask(&mut self, method: &str, target: &str, headers: &[&str], body: &[u8]) -> Answer {
        let mut text = format!("{method} /backups{target} HTTP/1.1\r\nHost: sink\r\n");
        headers.iter().for_each(|header| text.push_str(&format!("{header}\r\n")));
        text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        self.0.write_all(text.as_bytes()).unwrap();
        self.0.write_all(body).unwrap();
        let head = self.head();
        let answer = Answer { head, body: Vec::new() };
        let n = answer.header("Content-Length").map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; if method == "HEAD" { 0 } else { n }];
        self.0.read_exact(&mut body).unwrap();
        Answer { body, ..answer }
    }

    fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }
}

#[test]
fn what_was_put_is_read_whole_and_in_ranges() {
    let sink = Sink::start(Keeps::Everything).unwrap();
    let mut client = Client::of(&sink);
    let put = client.ask("PUT", "/a/b%20c", &["x-amz-checksum-crc64nvme: AAAAAAAAAAA="], b"0123456789");
    assert_eq!(put.check("200").header("x-amz-checksum-crc64nvme"), Some("AAAAAAAAAAA="));
    assert_eq!(client.ask("GET", "/a/b%20c", &[], b"").check("200").text(), "0123456789");
    let range = client.ask("GET", "/a/b%20c", &["Range: bytes=3-5"], b"");
    assert_eq!(range.check("206").text(), "345");
    assert_eq!(range.header("Content-Range"), Some("bytes 3-5/10"));
    let head = client.ask("HEAD", "/a/b%20c", &["x-amz-checksum-mode: ENABLED"], b"");
    assert_eq!(head.check("200").header("Content-Length"), Some("10"));
    assert_eq!(head.header("x-amz-checksum-crc64nvme"), Some("AAAAAAAAAAA="));
    client.ask("GET", "/a/b%20c", &["Range: bytes=10-"], b"").check("416");
    client.ask("GET", "/nothing", &[], b"").check("404");
    assert_eq!(sink.stored_bytes(""), 10);
    client.ask("DELETE", "/a/b%20c", &[], b"").check("204");
    client.ask("HEAD", "/a/b%20c", &[], b"").check("404");
    assert_eq!(sink.stored_bytes(""), 0);
}

#[test]
fn parts_make_one_object_in_the_order_of_their_numbers() {
    let sink = Sink::start(Keeps::Everything).unwrap();
    let mut client = Client::of(&sink);
    let begun = client.ask("POST", "/big?uploads", &[], b"").check("200").text();
    let id = begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    for (number, body) in [(2, "world"), (1, "hello "), (10, "!")] {
        client.ask("PUT", &format!("/big?partNumber={number}&uploadId={id}"), &[], body.as_bytes()).check("200");
    }
    client.ask("HEAD", "/big", &[], b"").check("404");
    let done = client.ask("POST", &format!("/big?uploadId={id}"), &["x-amz-checksum-crc64nvme: Zm9v"], b"<x/>");
    assert!(done.check("200").text().contains("<ChecksumCRC64NVME>Zm9v</ChecksumCRC64NVME>"));
    let again = client.ask("POST", &format!("/big?uploadId={id}"), &["x-amz-checksum-crc64nvme: Zm9v"], b"<x/>");
    assert_eq!(again.check("200").text(), done.text());
    assert_eq!(client.ask("GET", "/big", &["Range: bytes=4-7"], b"").check("206").text(), "o wo");
    assert_eq!(client.ask("GET", "/big", &[], b"").text(), "hello world!");
    client.ask("PUT", &format!("/big?partNumber=1&uploadId={id}"), &[], b"late").check("404");
}

#[test]
fn conditions_on_writes_hold() {
    let sink = Sink::start(Keeps::Small).unwrap();
    let mut client = Client::of(&sink);
    let first = client.ask("PUT", "/lease", &["If-None-Match: *"], b"1");
    let etag = first.check("200").header("ETag").unwrap().to_owned();
    client.ask("PUT", "/lease", &["If-None-Match: *"], b"2").check("412");
    client.ask("PUT", "/lease", &["If-Match: \"other\""], b"2").check("412");
    client.ask("PUT", "/lease", &[&format!("If-Match: {etag}")], b"3").check("200");
    client.ask("PUT", "/lease", &[&format!("If-Match: {etag}")], b"4").check("412");
    assert_eq!(client.ask("GET", "/lease", &[], b"").text(), "3");
}

#[test]
fn a_draining_server_counts_large_bodies_and_keeps_only_small_ones() {
    let sink = Sink::start(Keeps::Small).unwrap();
    let mut client = Client::of(&sink);
    let large = vec![7; usize::try_from(SMALL_BYTES).unwrap() + 1];
    client.ask("PUT", "/large", &[], &large).check("200");
    client.ask("PUT", "/small", &[], b"x").check("200");
    assert_eq!(sink.stored_bytes(""), SMALL_BYTES + 2);
    assert!(client.ask("GET", "/large", &[], b"").check("500").text().contains("BodyWasDropped"));
    assert_eq!(client.ask("GET", "/small", &[], b"").text(), "x");
    sink.clear("sm");
    assert_eq!((sink.stored_bytes("small"), sink.stored_bytes("large")), (0, SMALL_BYTES + 1));
}

#[test]
fn a_slow_server_gives_no_faster_than_it_takes() {
    let sink = Sink::start(Keeps::Everything).unwrap();
    let mut client = Client::of(&sink);
    let body = "x".repeat(300 << 10);
    client.ask("PUT", "/large", &[], body.as_bytes()).check("200");
    let pause = Duration::from_millis(200);
    sink.set_pace(Pace::StallAfter(100 << 10, pause));
    let began = Instant::now();
    assert_eq!(client.ask("GET", "/large", &[], b"").text(), body);
    assert!(began.elapsed() >= pause);
}

#[test]
fn a_failing_server_answers_with_errors_in_turn_and_a_resetting_one_stores_no_half_of_a_part() {
    let sink = Sink::start(Keeps::Everything).unwrap();
    let mut client = Client::of(&sink);
    sink.set_pace(Pace::FailEvery(2, Failure::Answered));
    for (key, status) in [("/a", "200"), ("/b", "500"), ("/c", "200"), ("/d", "503")] {
        client.ask("PUT", key, &[], b"x").check(status);
    }
    assert_eq!(sink.stored_bytes(""), 2);
    sink.set_pace(Pace::FailEvery(1, Failure::Reset));
    let begun = client.ask("POST", "/big?uploads", &[], b"").check("200").text();
    let id = begun.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    client.ask("PUT", "/e", &[], b"x").check("200");
    let body = vec![7; 1 << 20];
    let head =
        format!("PUT /backups/big?partNumber=1&uploadId={id} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    client.0.write_all(head.as_bytes()).unwrap();
    // Where it is cut depends on what lies in the sockets by then: the client sees it as it sends, or as it waits.
    let sent = client.0.write_all(&body);
    let kind = sent.and_then(|()| client.0.read_exact(&mut [0])).unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{kind:?}");
    let mut client = Client::of(&sink);
    client.ask("POST", &format!("/big?uploadId={id}"), &[], b"<x/>").check("200");
    assert_eq!(client.ask("HEAD", "/big", &[], b"").check("200").header("Content-Length"), Some("0"));
}

#[test]
fn a_chunked_body_is_kept_as_the_client_means_it() {
    let sink = Sink::start(Keeps::Everything).unwrap();
    let mut client = Client::of(&sink);
    let body =
        b"5;chunk-signature=aa\r\nhello\r\n1\r\n!\r\n0;chunk-signature=bb\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
    let headers = ["x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-decoded-content-length: 6"];
    client.ask("PUT", "/chunked", &headers, body).check("200");
    assert_eq!(client.ask("GET", "/chunked", &[], b"").text(), "hello!");
}

#[test]
fn a_client_that_waits_for_permission_to_send_gets_it() {
    let sink = Sink::start(Keeps::Small).unwrap();
    let mut client = Client::of(&sink);
    let head = "PUT /backups/x HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    client.0.write_all(head.as_bytes()).unwrap();
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.0.write_all(b"ok").unwrap();
    assert!(client.head().starts_with("HTTP/1.1 200 "));
}

#[test]
fn listings_group_by_delimiter_and_begin_after_a_key() {
    let sink = Sink::start(Keeps::Small).unwrap();
    let mut client = Client::of(&sink);
    for key in ["job/1/record", "job/2/record", "job/lease", "other"] {
        client.ask("PUT", &format!("/{key}"), &[], b"x").check("200");
    }
    let keys = |text: &str, tag: &str| -> Vec<String> {
        let tag = format!("<{tag}>");
        text.split(&tag).skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
    };
    let grouped = client.ask("GET", "?list-type=2&prefix=job%2F&delimiter=%2F", &[], b"").text();
    assert_eq!(keys(&grouped, "Key"), ["job/lease"]);
    assert_eq!(keys(&grouped, "Prefix"), ["job/", "job/1/", "job/2/"]);
    let rest = client.ask("GET", "?list-type=2&prefix=job&start-after=job/2/record", &[], b"").text();
    assert_eq!(keys(&rest, "Key"), ["job/lease"]);
    client.ask("POST", "?delete", &[], b"<Delete><Object><Key>other</Key></Object></Delete>").check("200");
    let all = client.ask("GET", "?list-type=2", &[], b"").text();
    assert_eq!(keys(&all, "Key"), ["job/1/record", "job/2/record", "job/lease"]);
}
