//! Whom a request takes us for. A web page can have its own name resolve to a loopback address; its requests then reach whoever
//! listens there, and say that name in `Host`. Where no key stands in between, only requests that mean this machine are answered.

use std::net::IpAddr;

use http::{Request, header};

/// Whether every host that a request names is this machine: `localhost` or a loopback address, with any port. One that names none
/// (HTTP/1.0) comes from no browser.
#[must_use]
pub fn means_this_machine<B>(request: &Request<B>) -> bool {
    let named = request.headers().get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
    named.chain(request.uri().authority().map(http::uri::Authority::as_str)).all(is_loopback)
}

/// Whether `host` or `host:port` is a loopback name or address.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if port.is_empty() || is_port(port) => address,
        Some(_) => return false,
        None => match authority.split_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            Some(_) => return false,
            None => authority,
        },
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn names_of_this_machine_are_known_and_no_others() {
        for host in [
            "localhost",
            "LocalHost:7700",
            "localhost.",
            "127.0.0.1",
            "127.0.0.1:7700",
            "127.9.9.9:1",
            "[::1]",
            "[::1]:7700",
            "[::ffff:127.0.0.1]:7",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:7700",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "10.0.0.1",
            "0.0.0.0:7700",
            "[::]:7700",
            "[::1]x",
            "[::1].evil.example",
            "localhost:7700:7700",
            "localhost@evil.example",
            "evil.example@localhost",
            "127.1",
            "2130706433",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn every_host_that_is_named_counts() {
        assert!(means_this_machine(&request("/v1/recall", &[])));
        assert!(means_this_machine(&request("/v1/recall", &["localhost:7700"])));
        assert!(!means_this_machine(&request("/v1/recall", &["localhost:7700", "evil.example"])));
        assert!(!means_this_machine(&request("http://evil.example/v1/recall", &["localhost"])));
        assert!(!means_this_machine(&request("http://localhost/v1/recall", &["evil.example"])));
    }
}
