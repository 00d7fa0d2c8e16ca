//! Which request means what, and the answers in S3's words: AWS, "Amazon S3 API Reference".

use super::http::{Connection, Request, Response};
use super::object::{Body, Object};
use super::pace::Fault;
use super::{BUCKET, Keeps, SMALL_BYTES, Shared};
use std::collections::BTreeSet;
use std::io;
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

const CRC: &str = "x-amz-checksum-crc64nvme";

/// Answers one client until it closes the connection.
pub(super) fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut connection = Connection::new(stream)?;
    while let Some(request) = connection.next()? {
        let fault = if request.method == "PUT" { shared.gate.fault(is_part(&request)) } else { None };
        if fault == Some(Fault::Cut) {
            // Closed with bytes that nobody reads, a connection is reset.
            return connection.drain(request.content_length()? / 2, &shared.gate);
        }
        let body = take(&mut connection, &request, shared)?;
        shared.gate.wait();
        let answered = match fault {
            Some(Fault::Answer(status, code)) => error(status, code),
            _ => answer(&request, body, shared),
        };
        let response = answered
            .for_method(&request.method)
            .with("Date", http_date(SystemTime::now()))
            .with("x-amz-request-id", "sink")
            .with("Server", "sink");
        connection.send(&response, &shared.gate)?;
    }
    Ok(())
}

fn is_part(request: &Request) -> bool {
    request.query("partNumber").is_some()
}

/// Takes the body, and keeps it where it will be asked for again.
fn take(connection: &mut Connection, request: &Request, shared: &Shared) -> io::Result<(Body, u64)> {
    let bytes = request.body_bytes()?;
    if shared.keeps == Keeps::Everything || (bytes <= SMALL_BYTES && !is_part(request)) {
        let kept = connection.keep(request, &shared.gate)?;
        return Ok((Body::Kept(vec![Arc::new(kept)]), bytes));
    }
    connection.drain(request.content_length()?, &shared.gate)?;
    Ok((Body::Dropped, bytes))
}

fn answer(request: &Request, body: (Body, u64), shared: &Shared) -> Response {
    let (bucket, key) = request.path.split_once('/').unwrap_or((&request.path, ""));
    if bucket.is_empty() {
        return xml(&format!(
            "<ListAllMyBucketsResult><Owner><ID>sink</ID></Owner><Buckets><Bucket><Name>{BUCKET}</Name>\
             <CreationDate>2026-01-01T00:00:00.000Z</CreationDate></Bucket></Buckets></ListAllMyBucketsResult>"
        ));
    }
    if key.is_empty() {
        return of_bucket(request, bucket, &body.0, shared);
    }
    match (request.method.as_str(), request.query("uploadId")) {
        ("GET" | "HEAD", None) => read(request, key, shared),
        ("PUT", None) if request.header("x-amz-copy-source").is_some() => error(501, "NotImplemented"),
        ("PUT", None) => put(request, key, body, shared),
        ("PUT", Some(id)) => part(request, id, body, shared),
        ("POST", None) if request.query("uploads").is_some() => {
            let id = shared.objects().begin(key);
            xml(&format!(
                "<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{}</Key><UploadId>{id}</UploadId>\
                 </InitiateMultipartUploadResult>",
                escape(key)
            ))
        }
        ("POST", Some(id)) => complete(request, bucket, key, id, shared),
        ("DELETE", None) => {
            shared.objects().remove(key);
            Response::empty(204)
        }
        ("DELETE", Some(id)) => {
            shared.objects().abort(id);
            Response::empty(204)
        }
        _ => error(501, "NotImplemented"),
    }
}

fn of_bucket(request: &Request, bucket: &str, body: &Body, shared: &Shared) -> Response {
    let asks = |name: &str| request.query(name).is_some();
    match request.method.as_str() {
        "GET" if asks("location") => xml("<LocationConstraint></LocationConstraint>"),
        "GET" if asks("versioning") => xml("<VersioningConfiguration></VersioningConfiguration>"),
        "GET" if asks("object-lock") => error(404, "ObjectLockConfigurationNotFoundError"),
        "GET" if asks("uploads") => xml(&format!(
            "<ListMultipartUploadsResult><Bucket>{bucket}</Bucket><IsTruncated>false</IsTruncated>\
             </ListMultipartUploadsResult>"
        )),
        "GET" => list(request, bucket, shared),
        "POST" if asks("delete") => {
            let Body::Kept(slices) = body else { return error(400, "MalformedXML") };
            let text: String = slices.iter().map(|slice| String::from_utf8_lossy(slice).into_owned()).collect();
            for key in text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
                shared.objects().remove(&unescape(key));
            }
            xml("<DeleteResult></DeleteResult>")
        }
        "PUT" | "HEAD" => Response::empty(200),
        _ => error(501, "NotImplemented"),
    }
}

/// Both versions of the listing in one answer, never cut: a client of either finds what it looks for.
fn list(request: &Request, bucket: &str, shared: &Shared) -> Response {
    let prefix = request.query("prefix").unwrap_or_default();
    let delimiter = request.query("delimiter").filter(|text| !text.is_empty());
    let after = request.query("start-after").or(request.query("marker")).unwrap_or_default();
    let mut text = format!(
        "<ListBucketResult><Name>{bucket}</Name><Prefix>{}</Prefix><IsTruncated>false</IsTruncated>\
         <MaxKeys>1000000</MaxKeys>",
        escape(prefix)
    );
    let (mut folders, mut n_keys) = (BTreeSet::new(), 0);
    for (key, object) in shared.objects().list(prefix, after) {
        let rest = &key[prefix.len()..];
        if let Some((folder, _)) = delimiter.and_then(|delimiter| rest.split_once(delimiter)) {
            folders.insert(format!("{prefix}{folder}{}", delimiter.unwrap_or_default()));
            continue;
        }
        n_keys += 1;
        text.push_str(&format!(
            "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size>\
             <StorageClass>STANDARD</StorageClass></Contents>",
            escape(key),
            iso_date(object.modified),
            escape(&object.etag),
            object.bytes
        ));
    }
    for folder in &folders {
        text.push_str(&format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(folder)));
    }
    text.push_str(&format!("<KeyCount>{}</KeyCount></ListBucketResult>", n_keys + folders.len()));
    xml(&text)
}

fn read(request: &Request, key: &str, shared: &Shared) -> Response {
    let Some(object) = shared.objects().get(key).cloned() else { return error(404, "NoSuchKey") };
    let (status, range) = match request.header("range").map(|text| parse_range(text, object.bytes)) {
        None => (200, 0..object.bytes),
        Some(Some(range)) => (206, range),
        Some(None) => return error(416, "InvalidRange"),
    };
    let mut response = describe(Response::empty(status), &object)
        .with("Last-Modified", http_date(object.modified))
        .with("Accept-Ranges", "bytes")
        .with("Content-Type", "application/octet-stream");
    if request.header("x-amz-checksum-mode").is_none() {
        response.headers.retain(|(name, _)| *name != CRC);
    }
    if status == 206 {
        let last = range.end.saturating_sub(1);
        response = response.with("Content-Range", format!("bytes {}-{last}/{}", range.start, object.bytes));
    }
    match object.slices(range.clone()) {
        Some(slices) => response.body = slices,
        None if request.method == "HEAD" => response.stated_bytes = Some(range.end - range.start),
        // Whoever reads what was meant to be thrown away measures the wrong thing.
        None => return error(500, "BodyWasDropped"),
    }
    response
}

fn put(request: &Request, key: &str, (body, bytes): (Body, u64), shared: &Shared) -> Response {
    let mut objects = shared.objects();
    if let Some(refusal) = refuse(request, objects.get(key)) {
        return refusal;
    }
    let crc = request.header(CRC).map(str::to_owned);
    describe(Response::empty(200), objects.put(key, body, bytes, crc))
}

fn part(request: &Request, id: &str, (body, bytes): (Body, u64), shared: &Shared) -> Response {
    let Some(number) = request.query("partNumber").and_then(|text| text.parse().ok()) else {
        return error(400, "InvalidArgument");
    };
    let Some(etag) = shared.objects().add_part(id, number, body, bytes) else { return error(404, "NoSuchUpload") };
    let response = Response::empty(200).with("ETag", etag);
    match request.header(CRC) {
        Some(crc) => response.with(CRC, crc),
        None => response,
    }
}

fn complete(request: &Request, bucket: &str, key: &str, id: &str, shared: &Shared) -> Response {
    let mut objects = shared.objects();
    if let Some(refusal) = refuse(request, objects.get(key)) {
        return refusal;
    }
    let crc = request.header(CRC).map(str::to_owned);
    let Some(object) = objects.complete(id, crc) else { return error(404, "NoSuchUpload") };
    let crc = object.crc64nvme.as_ref().map_or_else(String::new, |crc| {
        format!("<ChecksumCRC64NVME>{crc}</ChecksumCRC64NVME><ChecksumType>FULL_OBJECT</ChecksumType>")
    });
    xml(&format!(
        "<CompleteMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{}</Key><ETag>{}</ETag>{crc}\
         </CompleteMultipartUploadResult>",
        escape(key),
        escape(&object.etag)
    ))
}

/// What `If-None-Match: *` and `If-Match` forbid.
fn refuse(request: &Request, there: Option<&Object>) -> Option<Response> {
    let absent = request.header("if-none-match") == Some("*") && there.is_some();
    let changed = request.header("if-match").is_some_and(|etag| there.is_none_or(|object| object.etag != etag));
    (absent || changed).then(|| error(412, "PreconditionFailed"))
}

fn describe(response: Response, object: &Object) -> Response {
    let response = response.with("ETag", object.etag.clone());
    match &object.crc64nvme {
        Some(crc) => response.with(CRC, crc.clone()).with("x-amz-checksum-type", "FULL_OBJECT"),
        None => response,
    }
}

/// One range of RFC 9110, 14.1.2, cut to the object; `None` when nothing of it is there.
fn parse_range(text: &str, bytes: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.is_empty(), last.is_empty()) {
        (true, _) => bytes.saturating_sub(last.parse().ok()?)..bytes,
        (false, true) => first.parse().ok()?..bytes,
        (false, false) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(bytes),
    };
    (range.start < range.end).then_some(range)
}

fn xml(text: &str) -> Response {
    Response::text(200, &format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{text}"))
}

fn error(status: u16, code: &str) -> Response {
    Response::text(status, &format!("<Error><Code>{code}</Code><Message>the sink says no</Message></Error>"))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn unescape(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")
}

/// Year, month, day, weekday (0 is Sunday), hour, minute, second in UTC.
fn civil(at: SystemTime) -> [u64; 7] {
    let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-compatible low-level date algorithms": years that begin in March.
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    [year, month, day, (days + 4) % 7, rest / 3600, rest / 60 % 60, rest % 60]
}

fn http_date(at: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let [year, month, day, weekday, hour, minute, second] = civil(at);
    let name = |names: &[&'static str], n: u64| usize::try_from(n).ok().and_then(|n| names.get(n).copied());
    let weekday = name(&DAYS, weekday).unwrap_or_default();
    let month = name(&MONTHS, month - 1).unwrap_or_default();
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

fn iso_date(at: SystemTime) -> String {
    let [year, month, day, _, hour, minute, second] = civil(at);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, http, iso) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT", "1970-01-01T00:00:00.000Z"),
            (951_827_696, "Tue, 29 Feb 2000 12:34:56 GMT", "2000-02-29T12:34:56.000Z"),
            (1_795_219_200, "Sat, 21 Nov 2026 00:00:00 GMT", "2026-11-21T00:00:00.000Z"),
        ] {
            let at = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!((http_date(at).as_str(), iso_date(at).as_str()), (http, iso));
        }
    }

    #[test]
    fn ranges_are_cut_to_the_object_and_empty_ones_refused() {
        for (text, range) in [
            ("bytes=0-9", Some(0..10)),
            ("bytes=5-", Some(5..100)),
            ("bytes=-10", Some(90..100)),
            ("bytes=-1000", Some(0..100)),
            ("bytes=90-1000", Some(90..100)),
            ("bytes=100-", None),
            ("bytes=9-5", None),
            ("bits=0-1", None),
        ] {
            assert_eq!(parse_range(text, 100), range, "{text}");
        }
    }
}
