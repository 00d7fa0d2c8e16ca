//! Which proxy leads to a server. Pure: whoever makes a [`Proxies`] reads the environment.
//!
//! kube-rs would read it too, but holds `NO_PROXY` against the address of the proxy instead of that of the
//! server, takes a name in it for one with port 80, and fails at an empty word. So it is not asked.

use http::Uri;
use std::net::IpAddr;

/// What the environment says about proxies.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// `HTTPS_PROXY`; a user and a password may be in it.
    pub https: Option<String>,
    /// `NO_PROXY`: addresses, networks and names, separated by commas.
    pub not_for: String,
}

// A proxy's URL may hold a password.
impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxies").field("has_https", &self.https.is_some()).field("not_for", &self.not_for).finish()
    }
}

impl Proxies {
    /// The proxy that the environment names for this server. None for one without TLS, for one of this
    /// machine, which no proxy could reach, and for one that `NO_PROXY` names.
    pub(super) fn of(&self, server: &Uri) -> Option<&str> {
        let proxy = self.https.as_deref().map(str::trim).filter(|proxy| !proxy.is_empty())?;
        let host = bare(server.host()?).to_ascii_lowercase();
        let port = server.port_u16().unwrap_or(443);
        let is_local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let is_meant = server.scheme_str() == Some("https") && !is_local;
        (is_meant && !self.not_for.split(',').any(|word| names(word.trim(), &host, port))).then_some(proxy)
    }
}

/// A proxy's URL as a client takes it; many write only host and port.
///
/// Errors: why it is none. It is not shown: a password may be in it.
pub(super) fn parse(text: &str) -> Result<Uri, &'static str> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = whole.parse().map_err(|_| "it is not a URL")?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(uri),
        (Some("http" | "https"), _) => Err("it names no host"),
        _ => Err("only http:// and https:// are spoken to proxies"),
    }
}

/// The host of an address without the brackets of IPv6.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// Whether a word of `NO_PROXY` names this host. As curl, Go and so kubectl read it: a name is itself and
/// all names beneath it, one that begins with a dot (or `*.`) only those beneath.
fn names(word: &str, host: &str, port: u16) -> bool {
    if word == "*" {
        return true;
    }
    let address = host.parse::<IpAddr>().ok();
    if let Some((network, bits)) = word.split_once('/') {
        let (network, bits) = (bare(network).parse::<IpAddr>(), bits.parse::<u32>());
        return matches!((address, network, bits), (Some(address), Ok(network), Ok(bits)) if lies_in(address, network, bits));
    }
    let (name, of_port) = if word.parse::<IpAddr>().is_ok() { (word, None) } else { split_port(word) };
    if of_port.is_some_and(|of_port| of_port != port) {
        return false;
    }
    if let Ok(named) = bare(name).parse::<IpAddr>() {
        return address == Some(named);
    }
    let name = name.strip_prefix('*').unwrap_or(name).trim_end_matches('.').to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    let beneath = name.strip_prefix('.').unwrap_or(&name);
    let is_beneath = host.strip_suffix(beneath).is_some_and(|rest| rest.ends_with('.'));
    address.is_none() && !beneath.is_empty() && (is_beneath || host == name)
}

/// A word and the port at its end, if there is one.
fn split_port(word: &str) -> (&str, Option<u16>) {
    match word.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
        Some((name, Ok(port))) => (name, Some(port)),
        _ => (word, None),
    }
}

/// Whether an address lies in a network; `bits` of it are the network's.
fn lies_in(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            let differ = u32::from(address) ^ u32::from(network);
            differ.checked_shr(32 - bits).unwrap_or(0) == 0
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            let differ = u128::from(address) ^ u128::from(network);
            differ.checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environments_proxy_leads_to_all_servers_but_those_that_it_excepts() {
        for (server, not_for, is_proxied) in [
            ("https://k.example.org:6443", "", true),
            ("https://k.example.org:6443", "*", false),
            ("https://k.example.org:6443", "example.org", false),
            ("https://k.example.org:6443", "EXAMPLE.org.", false),
            ("https://k.example.org:6443", ".example.org", false),
            ("https://k.example.org:6443", "*.example.org", false),
            ("https://example.org:6443", "example.org", false),
            ("https://example.org:6443", ".example.org", true),
            ("https://notexample.org", "example.org", true),
            ("https://k.example.org:6443", "k.example.org:6443", false),
            ("https://k.example.org:6443", "k.example.org:443", true),
            ("https://k.example.org", "k.example.org:443", false),
            ("https://10.1.2.3:6443", "10.0.0.0/8", false),
            ("https://10.1.2.3:6443", "10.1.2.3", false),
            ("https://10.1.2.3:6443", "10.1.2.3:6443", false),
            ("https://10.1.2.3:6443", "10.1.2.3:443", true),
            ("https://10.1.2.3:6443", "10.1.3.0/24, 11.0.0.0/8", true),
            ("https://10.1.2.3:6443", "0.0.0.0/0", false),
            ("https://10.1.2.3:6443", "2.3", true),
            ("https://10.1.2.3:6443", "10.0.0.0/33", true),
            ("https://[2001:db8::1]:6443", "2001:db8::/32", false),
            ("https://[2001:db8::1]:6443", "2001:db8::1", false),
            ("https://[2001:db8::1]:6443", "[2001:db8::1]:6443", false),
            ("https://[2001:db8::1]:6443", "2001:db9::/32", true),
            // Words that are none change nothing, and spoil no others.
            ("https://k.example.org", " , ,/,:,.,no/host,", true),
            ("https://k.example.org", ",, example.org ,", false),
            // What no proxy could reach, and what it is not for.
            ("https://localhost:6443", "", false),
            ("https://127.0.0.1:6443", "", false),
            ("https://[::1]:6443", "", false),
            ("http://k.example.org", "", false),
        ] {
            let proxies = Proxies { https: Some(" http://proxy:3128 ".to_owned()), not_for: not_for.to_owned() };
            let expected = is_proxied.then_some("http://proxy:3128");
            assert_eq!(proxies.of(&server.parse().unwrap()), expected, "{server} not for {not_for:?}");
        }
        assert_eq!(Proxies::default().of(&"https://k".parse().unwrap()), None);
    }

    #[test]
    fn a_proxy_is_a_host_and_perhaps_more() {
        for (text, expected) in [
            ("http://p:3128", "http://p:3128/"),
            ("p:3128", "http://p:3128/"),
            ("p", "http://p/"),
            ("https://u:hunter2@p", "https://u:hunter2@p/"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), expected);
        }
        for bad in ["socks5://p:1080", "http://", "http://a b", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let proxies = Proxies { https: Some("http://u:hunter2@p".to_owned()), not_for: String::new() };
        assert!(!format!("{proxies:?}").contains("hunter2"));
    }
}
