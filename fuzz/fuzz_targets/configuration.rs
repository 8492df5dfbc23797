//! Configuration files, as far as the proxy reads them, and the values in them. `identity` and `policy` belong to the
//! binary and are passed over here.
#![no_main]

use fuzz::assert_one_line;
use policy::yaml::{self, Problems};
use proxy::Config;
use proxy::config::{AccessLog, App, Destination, Endpoint, Endpoints, OutboundListen, Source};

fuzz::target!(|text: &str| {
    values(text);
    match read(text) {
        Ok(config) => laws(&config),
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in &problems {
                assert!(problem.line > 0 && problem.column > 0);
                assert_one_line(problem);
            }
        }
    }
});

fn read(text: &str) -> Result<Config, Vec<yaml::Problem>> {
    let problems = Problems::new();
    let config = yaml::parse_one("sidecar.yaml", text, &problems).and_then(|node| {
        yaml::map(&node, &problems, |map| {
            map.node_of("identity");
            map.node_of("policy");
            Config::read(map)
        })
    });
    problems.or_value(config)
}

/// What may be written is safe to run with: nothing waits for ever, nothing is unbounded, nothing local is exposed.
fn laws(config: &Config) {
    let timeouts = &config.timeouts;
    for timeout in [
        timeouts.tls_hello,
        timeouts.request_head,
        timeouts.idle,
        timeouts.app_idle,
        timeouts.upstream_connect,
        timeouts.response,
        timeouts.drain,
    ] {
        assert!(!timeout.is_zero() && timeout.as_secs() <= 24 * 3600);
    }
    let sizes = &config.sizes;
    assert!((8 * 1024..=1024 * 1024).contains(&sizes.max_head_bytes));
    assert!(sizes.max_headers > 0 && sizes.max_connections > 0 && sizes.max_streams > 0);
    assert!(config.workers.get() <= 256);
    assert!(config.admin.listen.ip().is_loopback());
    for inbound in &config.inbound {
        match &inbound.app {
            App::At(Destination::Tcp(app)) => endpoint(app),
            App::At(Destination::Unix(path)) => assert!(path.is_absolute()),
            App::Original => {}
        }
    }
    if let Some(outbound) = &config.outbound {
        match &outbound.listen {
            OutboundListen::Tcp(address) => assert!(address.ip().is_loopback()),
            OutboundListen::Unix { path, mode } => assert!(path.is_absolute() && *mode <= 0o777),
        }
        assert!(!outbound.uids.is_empty());
        let mut hosts: Vec<&String> = Vec::new();
        for service in &outbound.services {
            assert!(!service.hosts.is_empty());
            assert!(!service.timeout.is_zero());
            match &service.endpoints {
                Endpoints::Listed(sources) => {
                    assert!(!sources.is_empty());
                    sources.iter().for_each(source);
                }
                Endpoints::File(path) => assert!(!path.as_os_str().is_empty()),
            }
            hosts.extend(&service.hosts);
        }
        for external in &outbound.external {
            assert_ne!(external.hosts.is_empty(), external.destinations.is_empty());
            assert!(external.hosts.is_empty() || !external.ports.is_empty());
            assert!(!external.timeout.is_zero());
            external.endpoints.iter().for_each(endpoint);
        }
        hosts.sort();
        assert!(hosts.windows(2).all(|pair| pair[0] != pair[1]), "{hosts:?}");
    }
    assert!(!matches!(&config.access_log, AccessLog::File(path) if path.as_os_str().is_empty()));
    assert_eq!(config.restart_needed(config), Vec::<&str>::new());
    assert!(serde_json::to_string(config).is_ok());
}

fn source(source: &Source) {
    assert_eq!(
        source.to_string().parse::<Source>().as_ref().ok(),
        Some(source)
    );
}

fn endpoint(endpoint: &Endpoint) {
    assert_eq!(
        endpoint.to_string().parse::<Endpoint>().as_ref().ok(),
        Some(endpoint)
    );
}

/// Scalars as they stand in both kinds of file.
fn values(text: &str) {
    if let Ok(read) = text.parse::<Endpoint>() {
        assert_ne!(read.port, 0);
        endpoint(&read);
    }
    if let Err(message) = yaml::parse_duration(text) {
        assert_one_line(&message);
    }
    if let Err(message) = yaml::parse_timestamp(text) {
        assert_one_line(&message);
    }
}
