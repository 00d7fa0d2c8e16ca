//! `[metrics]`: where metrics go, and whom plugins may ask.

use super::fields::Fields;
use super::{Meaning, SecretRef};
use std::path::PathBuf;

/// `[metrics]`
#[derive(Clone, Debug, Default)]
pub struct MetricsConfig {
    /// `textfile`: for the textfile collector.
    pub textfile: Option<PathBuf>,
    /// `pushgateway`: gets the metrics after each run.
    pub pushgateway: Option<MetricsServer>,
    /// `prometheus`: plugins may query it.
    pub prometheus: Option<MetricsServer>,
}

/// A server of metrics, and how to say who we are.
#[derive(Clone, Debug)]
pub struct MetricsServer {
    /// `url`, with `http` or `https`.
    pub url: String,
    /// `token`.
    pub token: Option<SecretRef>,
    /// `username` and `password`.
    pub basic: Option<(String, SecretRef)>,
    /// `ca`: the only authorities that are believed.
    pub ca: Option<PathBuf>,
}

impl Meaning<'_> {
    pub(super) fn metrics(&mut self, fields: &Fields) -> MetricsConfig {
        let textfile = fields.text("textfile").and_then(|text| {
            if text.ends_with(".prom") {
                return self.path(fields, "textfile");
            }
            let help = "the collector reads files whose names end in .prom, such as \"strongroom.prom\"";
            self.mistakes
                .add(fields.span_of("textfile"), "metrics.textfile does not end in .prom".to_owned(), "nobody reads it")
                .help = Some(help.to_owned());
            None
        });
        MetricsConfig {
            textfile,
            pushgateway: self.metrics_server(fields, "pushgateway"),
            prometheus: self.metrics_server(fields, "prometheus"),
        }
    }

    fn metrics_server(&mut self, fields: &Fields, key: &str) -> Option<MetricsServer> {
        let span = fields.span_of(key);
        let Some(table) = fields.table(key) else {
            let url = fields.text(key)?.to_owned();
            self.check_metrics_url(&url, span, key, false)?;
            return Some(MetricsServer { url, token: None, basic: None, ca: None });
        };
        let path = format!("metrics.{key}");
        let token = table.secret("token").map(|secret| self.secret_ref(secret));
        let basic = match (table.text("username"), table.secret("password")) {
            (Some(user), Some(password)) => Some((user.to_owned(), self.secret_ref(password))),
            (None, None) => None,
            _ if table.is_refused("password") => return None,
            _ => {
                let help = "write username and password, or token alone";
                self.mistakes.add(span, format!("{path} has half of a user and a password"), "expected both").help =
                    Some(help.to_owned());
                return None;
            }
        };
        if token.is_some() && basic.is_some() {
            self.mistakes.add(span, format!("{path} has a token and a password"), "expected one of them");
            return None;
        }
        let ca = if table.has("ca") { Some(self.path(table, "ca")?) } else { None };
        let url = table.text("url")?.to_owned();
        let has_credentials = token.is_some() || basic.is_some();
        self.check_metrics_url(&url, table.span_of("url"), key, has_credentials)?;
        Some(MetricsServer { url, token, basic, ca })
    }

    /// An address that can be used, and gives no credentials away on its way.
    fn check_metrics_url(
        &mut self,
        url: &str,
        span: std::ops::Range<usize>,
        key: &str,
        has_credentials: bool,
    ) -> Option<()> {
        let path = format!("metrics.{key}");
        let parsed = url.parse::<http::Uri>().ok();
        let authority = parsed.as_ref().and_then(http::Uri::authority);
        let scheme = parsed.as_ref().and_then(http::Uri::scheme_str);
        let Some((authority, scheme)) = authority.zip(scheme).filter(|(_, scheme)| matches!(*scheme, "http" | "https"))
        else {
            self.mistakes.mask(span.clone());
            self.mistakes.add(span, format!("{path} is not a URL"), "expected http:// or https:// and a host");
            return None;
        };
        let (mut wrong, mut help) = (None, None);
        if authority.as_str().contains('@') {
            self.mistakes.mask(span.clone());
            wrong = Some("holds a user or a password");
            help = Some("write { url = \"…\", username = \"…\", password = { file = \"…\" } }");
        } else if parsed.as_ref().is_some_and(|url| url.query().is_some()) {
            wrong = Some("has a query");
        } else if has_credentials && scheme == "http" && !is_loopback(authority.host()) {
            wrong = Some("would send its credentials unencrypted");
            help = Some("use https://, with ca = \"…\" for a certificate of your own");
        }
        if let Some(wrong) = wrong {
            let mistake = self.mistakes.add(span, format!("{path} {wrong}"), "expected a URL alone");
            mistake.help = help.map(str::to_owned);
            return None;
        }
        Some(())
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::config::mistake::Mistakes;
    use std::path::Path;

    /// Everything that is wrong with these lines of `[metrics]`.
    fn wrong(lines: &str) -> String {
        let error =
            Config::parse(&format!("[metrics]\n{lines}\n"), Path::new("s.toml"), Path::new("/etc")).unwrap_err();
        let mistakes = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Mistakes>());
        let placed = mistakes.unwrap().placed();
        placed.iter().map(|mistake| mistake.message.clone()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn what_nobody_reads_or_gives_credentials_away_is_refused() {
        for (lines, says) in [
            ("textfile = \"strongroom.txt\"", "does not end in .prom"),
            ("pushgateway = \"gateway:9091\"", "metrics.pushgateway is not a URL"),
            ("pushgateway = \"ftp://gateway\"", "is not a URL"),
            ("prometheus = \"http://u:hunter2@p\"", "holds a user or a password"),
            ("prometheus = \"http://p/?x=1\"", "has a query"),
            ("prometheus = { url = \"http://p\", token = { env = \"T\" } }", "would send its credentials unencrypted"),
            ("prometheus = { url = \"https://p\", username = \"u\" }", "half of a user and a password"),
            (
                "prometheus = { url = \"https://p\", username = \"u\", password = { env = \"P\" }, token = { env = \"T\" } }",
                "a token and a password",
            ),
            ("prometheus = { token = { env = \"T\" } }", "metrics.prometheus.url is missing"),
        ] {
            let found = wrong(lines);
            assert!(found.contains(says), "{lines}: {found}");
        }
    }

    #[test]
    fn credentials_may_go_over_tls_and_to_this_machine() {
        for url in ["https://p:9090/prefix", "http://127.0.0.1:9090", "http://[::1]:9090", "http://localhost"] {
            let text = format!("[metrics]\nprometheus = {{ url = \"{url}\", token = {{ env = \"T\" }} }}\n");
            let config = Config::parse(&text, Path::new("s.toml"), Path::new("/etc")).unwrap();
            assert_eq!(config.metrics.prometheus.unwrap().url, url);
        }
    }
}
