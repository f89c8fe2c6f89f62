//! The recipes in `deploy/`: what they say fits what the server does, and tools that know the formats take them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use stellane_core::config::{Loader, RuntimeConfig};

fn recipe(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(recipe(name)).expect("a recipe")
}

/// What stands behind this key in a YAML or a unit file.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let mut lines = text.lines().map(str::trim);
    let value = lines.find_map(|line| line.strip_prefix(key));
    value.unwrap_or_else(|| panic!("no {key}")).trim()
}

/// What the server makes of these variables.
fn configured(variables: &[(String, String)]) -> RuntimeConfig {
    let variables = variables.iter().map(|(name, value)| (&**name, &**value));
    let config = Loader::new().env(variables).load();
    config.unwrap_or_else(|errors| panic!("{errors}"))
}

/// The server has ended when whoever stops it loses patience; seconds.
fn assert_in_time(config: &RuntimeConfig, patience: &str) {
    let patience: u64 = patience.parse().expect("seconds");
    let takes = config.server.grace_period();
    assert!(
        takes <= Duration::from_secs(patience),
        "takes {takes:?} of {patience} s"
    );
}

#[test]
fn the_deployment_says_what_the_server_understands_and_leaves_it_time() {
    let text = read("kubernetes.yaml");
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let variables: Vec<_> = lines
        .windows(2)
        .filter_map(|two| {
            let name = two[0].strip_prefix("- name: STELLANE")?;
            let value = two[1].strip_prefix("value: ")?.trim_matches('"');
            Some((format!("STELLANE{name}"), value.to_owned()))
        })
        .collect();
    assert!(variables.len() > 3, "{variables:?}");
    let config = configured(&variables);
    assert_in_time(&config, value(&text, "terminationGracePeriodSeconds:"));
    for (address, port) in [
        (&config.server.address, "http"),
        (&config.server.admin_address, "admin"),
    ] {
        let declared = format!("- name: {port}\n              containerPort: ");
        let (_, rest) = text.split_once(&declared).expect("a port");
        let number = rest.lines().next().expect("a number");
        assert!(address.ends_with(&format!(":{number}")), "{address}");
    }
}

#[test]
fn the_unit_says_what_the_server_understands_and_leaves_it_time() {
    let text = read("hello.service");
    let variables: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("Environment=")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_in_time(&configured(&variables), value(&text, "TimeoutStopSec="));
}

/// What a tool says that must succeed; nothing, and so much on stderr, if it is not there.
fn check(tool: &str, arguments: &[&str], files: &[PathBuf]) -> String {
    let output = Command::new(tool).args(arguments).args(files).output();
    let Ok(output) = output else {
        eprintln!("skipped: {tool} is not installed");
        return String::new();
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let said = format!("{}{said}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{tool} {arguments:?}: {said}");
    said
}

#[test]
fn kubernetes_knows_every_field_of_the_manifest() {
    // pip install kubernetes-validate: the schemas of the API, offline.
    check(
        "kubernetes-validate",
        &["--strict"],
        &[recipe("kubernetes.yaml"), recipe("autoscaling-hpa.yaml")],
    );
}

#[test]
fn keda_knows_every_field_of_the_manifest() {
    // pip install cloudcoil-models-keda: models of KEDA's types, which leave out what they do not know.
    let script = r#"
import sys
try:
    import yaml, cloudcoil.models.keda.v1alpha1 as keda
except ImportError:
    sys.exit("skipped: no cloudcoil-models-keda")

def fields(value, path=""):
    if isinstance(value, dict):
        return {field for key, inner in value.items() for field in fields(inner, f"{path}.{key}")}
    if isinstance(value, list):
        return {field for inner in value for field in fields(inner, path + "[]")}
    return {path}

manifest = yaml.safe_load(open(sys.argv[1]))
known = keda.ScaledObject.model_validate(manifest).model_dump(by_alias=True, exclude_unset=True)
print("unknown:", *sorted(fields(manifest) - fields(known)))
"#;
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(recipe("autoscaling.yaml"))
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: no python3");
        return;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.starts_with("skipped: ") {
        eprint!("{errors}");
        return;
    }
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "unknown:\n",
        "{errors}"
    );
}

/// Both ask for the same, of the deployment that is there, by a number that the server tells.
#[tokio::test]
async fn autoscalers_look_at_what_the_server_tells() {
    let (keda, hpa) = (read("autoscaling.yaml"), read("autoscaling-hpa.yaml"));
    let (adapter, deployment) = (read("prometheus-adapter.yaml"), read("kubernetes.yaml"));
    assert_eq!(value(&keda, "threshold:"), "\"0.7\"");
    assert_eq!(value(&hpa, "averageValue:"), "700m");
    let least = value(&deployment, "replicas:");
    assert_eq!(value(&keda, "minReplicaCount:"), least);
    assert_eq!(value(&hpa, "minReplicas:"), least);
    assert_eq!(
        value(&keda, "maxReplicaCount:"),
        value(&hpa, "maxReplicas:")
    );
    let name = value(&deployment, "name:");
    for text in [&keda, &hpa] {
        let (_, target) = text.split_once("scaleTargetRef:").expect("a target");
        assert_eq!(value(target, "name:"), name);
    }
    let metric = value(&adapter, "as:");
    assert!(value(&keda, "query:").contains(metric) && hpa.contains(&format!("name: {metric}")));
    let components = stellane_core::Components::new(&RuntimeConfig::default()).expect("valid");
    let told = components.prometheus.render();
    assert!(told.contains(&format!("# TYPE {metric} gauge")), "{told}");
}

#[test]
fn prometheus_makes_of_the_queries_what_the_autoscalers_are_to_see() {
    let (keda, adapter) = (read("autoscaling.yaml"), read("prometheus-adapter.yaml"));
    let query = value(&keda, "query:");
    // What the adapter fills in.
    let of_pods = value(&adapter, "metricsQuery:")
        .replace("<<.Series>>", "stellane_saturation")
        .replace(
            "<<.LabelMatchers>>",
            "namespace=\"default\",pod=~\"hello-0|hello-1|hello-2\"",
        )
        .replace("<<.GroupBy>>", "pod");
    let series = value(&adapter, "- seriesQuery:").trim_matches('\'');
    // Three replicas that have little to do, and from the second scrape on more than they can: by the target of 0.7 two are wanted, then
    // seven.
    let (low, high) = (0.25, 1.5);
    let pod = |n| {
        format!(
            "      - series: 'stellane_saturation{{namespace=\"default\",app=\"hello\",pod=\"hello-{n}\"}}'\n        values: '{low} {high}'\n"
        )
    };
    let expected = |expr: &str, at: &str, samples: &[(String, f64)]| {
        let samples: String = samples
            .iter()
            .map(|(labels, value)| {
                format!("          - labels: '{labels}'\n            value: {value}\n")
            })
            .collect();
        format!("      - expr: '{expr}'\n        eval_time: {at}\n        exp_samples:\n{samples}")
    };
    let by_pod = |value: f64| -> Vec<_> {
        (0..3)
            .map(|n| (format!("{{pod=\"hello-{n}\"}}"), value))
            .collect()
    };
    let sum = |each: f64| [("{}".to_owned(), 3.0 * each)];
    // Another service and another namespace are none of its.
    let others = "      - series: 'stellane_saturation{namespace=\"default\",app=\"other\",pod=\"other-0\"}'\n        values: '9 9'\n      \
        - series: 'stellane_saturation{namespace=\"stage\",app=\"hello\",pod=\"hello-0\"}'\n        values: '9 9'\n";
    let text = format!(
        "evaluation_interval: 15s\ntests:\n  - interval: 15s\n    input_series:\n{}{others}    promql_expr_test:\n{}{}{}{}{}",
        (0..3).map(pod).collect::<String>(),
        expected(query, "0s", &sum(low)),
        expected(query, "15s", &sum(high)),
        expected(&of_pods, "0s", &by_pod(low)),
        expected(&of_pods, "15s", &by_pod(high)),
        expected(
            &format!("count({series})"),
            "15s",
            &[("{}".to_owned(), 5.0)]
        ),
    );
    let file = std::env::temp_dir().join(format!("stellane-promtool-{}.yaml", std::process::id()));
    fs::write(&file, text).expect("writes");
    check("promtool", &["test", "rules"], std::slice::from_ref(&file));
    fs::remove_file(file).expect("removes");
}

#[test]
fn envoy_knows_every_field_of_the_recipe() {
    check(
        "envoy",
        &["--mode", "validate", "-c"],
        &[recipe("envoy.yaml")],
    );
}

#[test]
fn systemd_knows_every_line_of_the_units() {
    // It also looks for the program: there is none of that name here.
    let copies = std::env::temp_dir().join(format!("stellane-deploy-{}", std::process::id()));
    fs::create_dir_all(&copies).expect("a folder");
    let units: Vec<_> = ["hello.service", "hello.socket"]
        .iter()
        .map(|name| {
            let text = read(name).replace("/usr/local/bin/hello", "/bin/true");
            let copy = copies.join(name);
            fs::write(&copy, text).expect("writes");
            copy
        })
        .collect();
    // Of a key that it does not know it only says so.
    let said = check("systemd-analyze", &["verify", "--man=no"], &units);
    assert_eq!(said, "");
    fs::remove_dir_all(&copies).expect("removes");
}
