"""What an operator applies in a member cluster, as files: scripts for kubectl, values for Istio, and the guard. Pure.

For a cluster that joins: the hub may neither read Secrets nor change Istio there, so these files run with the
operator's own rights. No script holds a secret: the key of istiod's CA goes from one Secret to another inside
kubectl, and never to a file. Each can be run again: it does what is still to be done. That a step is done is seen by
the hub, not reported by the script.

``cacerts`` is what istiod's CA reads (pilot/pkg/bootstrap/istio_ca.go of istio/istio): with only some of the files it
exits, and it loads another ``root-cert.pem`` only at a restart. Both forms of the Secret are served, Istio's own and
that of type ``kubernetes.io/tls``.

The guard's parameter object says what a member's bundle objects may hold (``manifests/member/guard``). It is a
ConfigMap that the member's administrator applies. ``data`` holds each certificate, ``binaryData`` each bundle that
can be published of them, for the Secret whose base64 the admission policy cannot decode.
"""

from __future__ import annotations

import base64
import shlex
import textwrap
from binascii import b2a_base64
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final

from federation.core.errors import InvalidValue
from federation.core.istio.settings import FORMS, MOUNTED_SECRET, IstioSettings, settings_files
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import encode_certificates
from federation.core.trust.joining import ISTIOD, JoinStep

WIDTH: Final = 110
SCRIPT: Final = 0o755
VALUES: Final = 0o644


@dataclass(frozen=True, slots=True)
class JoinFile:
    """One file: its path below the cluster's directory, its text, and its mode."""

    name: str
    text: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """The bundle that a cluster's own CA has to deliver, and those of its roots that are the cluster's own."""

    generation: int
    sha256: str
    pem: bytes
    own_pem: bytes


def files_for(
    step: JoinStep,
    settings: Sequence[IstioSettings],
    merged: Merged,
    *,
    distributors: Sequence[str] = (),
) -> tuple[JoinFile, ...]:
    """What has to be applied for that step, for each control plane; nothing where the hub or time does it."""
    match step:
        case JoinStep.SERVE if distributors and ISTIOD not in distributors:
            return (_bundle_for_others(settings[0], merged),)
        case JoinStep.SERVE:
            namespaces = dict.fromkeys(s.namespace for s in settings)
            return tuple(_cacerts(namespace, settings[0], merged) for namespace in namespaces)
        case JoinStep.CONTROL_PLANE:
            namespaces = dict.fromkeys(s.namespace for s in settings)
            return tuple(_restart_istiod(namespace, settings[0]) for namespace in namespaces)
        case JoinStep.MOVE:
            return (*_values("3-move", settings, ca_server=True), _restart_pods(settings[0]))
        case JoinStep.SWITCH_OFF:
            return _values("4-switch-off", settings, ca_server=False)
        case JoinStep.DROP:
            namespaces = dict.fromkeys(s.namespace for s in settings)
            return tuple(_remove_key(namespace, settings[0]) for namespace in namespaces)
        case _:
            return ()


def _values(folder: str, settings: Sequence[IstioSettings], *, ca_server: bool) -> tuple[JoinFile, ...]:
    found = []
    for each in settings:
        one = replace(each, ca_server=ca_server)
        place = folder if len(settings) == 1 else f"{folder}/{each.namespace}-{each.revision}"
        found += [
            JoinFile(f"{place}/{file.name}", file.text, VALUES)
            for form in FORMS
            for file in settings_files(one, form)
        ]
    return tuple(found)


def _script(settings: IstioSettings, why: str, body: str, **values: str) -> str:
    """``body`` is shell, in which @NAME@ is replaced by the value of that name."""
    said = f"Cluster {settings.cluster}: {why}"
    comment = textwrap.fill(said, WIDTH, initial_indent="# ", subsequent_indent="# ")
    text = _HEAD.replace("@WHY@", comment).replace("@CLUSTER@", settings.cluster) + body
    for name, value in values.items():
        text = text.replace(f"@{name.upper()}@", value)
    return text


_HEAD: Final = """\
#!/bin/sh
@WHY@
# Written by `federation clusters join`. KUBECTL names the client and the cluster:
#   KUBECTL="kubectl --context @CLUSTER@" sh FILE
set -eu
: "${KUBECTL:=kubectl}"
say() { echo "${0##*/}: $*" >&2; }
die() { say "$@"; exit 1; }
"""

_RESTART: Final = """\
$KUBECTL -n "$namespace" rollout restart deployment -l app=istiod
$KUBECTL -n "$namespace" rollout status deployment -l app=istiod --timeout=600s
"""

_PLUG_IN: Final = r"""command -v openssl >/dev/null || die "openssl is needed, to see that this is the right cluster"
namespace=@NAMESPACE@
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

# The bundle of generation @GENERATION@: istiod has to deliver it to the byte.
# SHA-256 @SHA256@
bundle=@BUNDLE@
# The roots of its own CA:
cat >"$work/own.pem" <<'PEM'
@OWN@PEM

# certificate SECRET KEY
certificate() {
  $KUBECTL -n "$namespace" get secret "$1" -o "go-template={{with index .data \"$2\"}}{{. | base64decode}}{{end}}"
}
# check SECRET CERTIFICATE CHAIN: its CA is below a root that was accepted for this cluster.
check() {
  certificate "$1" "$2" >"$work/ca.pem"
  certificate "$1" "$3" >"$work/chain.pem"
  cat "$work/ca.pem" >>"$work/chain.pem"
  openssl verify -CAfile "$work/own.pem" -untrusted "$work/chain.pem" "$work/ca.pem" >/dev/null ||
    die "the CA in Secret $namespace/$1 is not below a root that was accepted for @CLUSTER@: is this the cluster?"
}

found=$($KUBECTL -n "$namespace" get secret cacerts --ignore-not-found -o name)
if [ -n "$found" ]; then
  keys=$($KUBECTL -n "$namespace" get secret cacerts -o 'go-template={{range $key, $_ := .data}} {{$key}} {{end}}')
  case $keys in
    *" tls.crt "*) roots=ca.crt; check cacerts tls.crt tls.crt ;;
    *) roots=root-cert.pem; check cacerts ca-cert.pem cert-chain.pem ;;
  esac
  # Its key and certificate stay. With istio-generated, istiod would take it for a CA that it has made itself.
  $KUBECTL -n "$namespace" patch secret cacerts --type merge \
    -p "{\"data\":{\"$roots\":\"$bundle\",\"istio-generated\":null}}"
else
  # istiod's self-signed CA: the same key and certificate, plugged in beside more roots.
  check istio-ca-secret ca-cert.pem ca-cert.pem
  template='{"apiVersion":"v1","kind":"Secret","type":"Opaque",
    "metadata":{"name":"cacerts","namespace":"{{.metadata.namespace}}"},
    "data":{"ca-key.pem":"{{index .data "ca-key.pem"}}","ca-cert.pem":"{{index .data "ca-cert.pem"}}",
    "cert-chain.pem":"{{index .data "ca-cert.pem"}}","root-cert.pem":"'$bundle'"}}'
  $KUBECTL -n "$namespace" get secret istio-ca-secret -o "go-template=$template" | $KUBECTL create -f -
fi
"""


def _cacerts(namespace: str, settings: IstioSettings, merged: Merged) -> JoinFile:
    why = (
        "istiod's own CA goes on with its key, and delivers the hub's bundle from now on. Proxies trust what comes "
        "with their certificate, so those that ask istiod then trust those that ask the hub."
    )
    text = _script(
        settings,
        why,
        f"{_PLUG_IN}\n{_RESTART}",
        namespace=shlex.quote(namespace),
        generation=str(merged.generation),
        sha256=merged.sha256,
        bundle=base64.b64encode(merged.pem).decode("ascii"),
        own=merged.own_pem.decode("ascii"),
        cluster=settings.cluster,
    )
    return JoinFile(f"1-cacerts{_suffix(namespace, settings)}.sh", text, SCRIPT)


_CERTIFICATE_FIRST: Final = """\
namespace=@NAMESPACE@
found=$($KUBECTL -n "$namespace" get secret @SECRET@ --ignore-not-found -o name)
[ -n "$found" ] || die "Secret $namespace/@SECRET@ is not there yet: the hub makes it; see: federation status"
"""


def _restart_istiod(namespace: str, settings: IstioSettings) -> JoinFile:
    why = (
        f"istiod is restarted, so that it takes its own certificate from Secret {MOUNTED_SECRET}, which the hub "
        "provides. It reads it at its start only. Its CA goes on issuing."
    )
    place = shlex.quote(namespace)
    body = _CERTIFICATE_FIRST + _RESTART
    text = _script(settings, why, body, namespace=place, secret=MOUNTED_SECRET)
    return JoinFile(f"2-restart-istiod{_suffix(namespace, settings)}.sh", text, SCRIPT)


_EACH_POD: Final = r"""rest=$(mktemp)
trap 'rm -f "$rest" "$rest.pods"' EXIT INT TERM
# Of each pod whose proxy does not ask @LISTENER@: its namespace, and what owns it.
$KUBECTL get pods --all-namespaces -o 'go-template={{range .items}}
  {{- $proxy := ""}}{{$asks := ""}}{{$owner := "Pod"}}{{$name := .metadata.name}}
  {{- range .spec.initContainers}}{{if eq .name "istio-proxy"}}{{$proxy = .name}}
    {{- range .env}}{{if eq .name "CA_ADDR"}}{{$asks = .value}}{{end}}{{end}}{{end}}{{end}}
  {{- range .spec.containers}}{{if eq .name "istio-proxy"}}{{$proxy = .name}}
    {{- range .env}}{{if eq .name "CA_ADDR"}}{{$asks = .value}}{{end}}{{end}}{{end}}{{end}}
  {{- range .metadata.ownerReferences}}{{if .controller}}{{$owner = .kind}}{{$name = .name}}{{end}}{{end}}
  {{- if and $proxy (ne $asks "@LISTENER@")}}{{.metadata.namespace}} {{$owner}} {{$name}}{{"\n"}}{{end}}
{{- end}}' >"$rest.pods"
while read -r space kind name; do
  if [ "$kind" = ReplicaSet ]; then
    owner=$($KUBECTL -n "$space" get replicaset "$name" </dev/null \
      -o 'go-template={{range .metadata.ownerReferences}}{{.kind}} {{.name}}{{end}}')
    echo "$space ${owner:-$kind $name}"
  else
    echo "$space $kind $name"
  fi
done <"$rest.pods" | sort -u >"$rest"
while read -r space kind name; do
  case $kind in
    Deployment | StatefulSet | DaemonSet)
      $KUBECTL -n "$space" rollout restart "$kind/$name" </dev/null
      $KUBECTL -n "$space" rollout status "$kind/$name" --timeout=600s </dev/null
      ;;
    *) say "to be restarted by hand: $kind $space/$name" ;;
  esac
done <"$rest"
"""


def _restart_pods(settings: IstioSettings) -> JoinFile:
    why = (
        "every workload with a pod whose proxy does not ask the hub is restarted, one after the other. First give "
        "Istio the values beside this file: where a proxy asks is written into its pod when that is injected."
    )
    return JoinFile(
        "3-move/restart-pods.sh", _script(settings, why, _EACH_POD, listener=settings.listener), SCRIPT
    )


_DELETE: Final = """\
namespace=@NAMESPACE@
for name in cacerts istio-ca-secret; do
  $KUBECTL -n "$namespace" delete secret "$name" --ignore-not-found
done
"""


def _remove_key(namespace: str, settings: IstioSettings) -> JoinFile:
    why = (
        "the key of istiod's former CA is removed. Until its root has left the bundle, anyone with this key can "
        "impersonate every workload of the federation; so keep no copy of it."
    )
    text = _script(settings, why, _DELETE, namespace=shlex.quote(namespace))
    return JoinFile(f"5-remove-key{_suffix(namespace, settings)}.sh", text, SCRIPT)


_CONFIG_MAP: Final = """\
# Cluster @CLUSTER@: the bundle of generation @GENERATION@. Its own CA has to deliver it with every certificate, and to
# publish it, to the byte. With istio-csr: apply this in its namespace, mount it, and name the file (values of its
# chart: volumes, volumeMounts, app.tls.rootCAFile). With another CA: put it where that takes its roots from.
# SHA-256 @SHA256@
apiVersion: v1
kind: ConfigMap
metadata:
  name: federation-bundle
data:
  ca.pem: |
@LINES@"""


def _bundle_for_others(settings: IstioSettings, merged: Merged) -> JoinFile:
    text = (
        _CONFIG_MAP.replace("@CLUSTER@", settings.cluster)
        .replace("@GENERATION@", str(merged.generation))
        .replace("@SHA256@", merged.sha256)
        .replace("@LINES@", textwrap.indent(merged.pem.decode("ascii"), "    "))
    )
    return JoinFile("1-bundle.yaml", text, VALUES)


def _suffix(namespace: str, settings: IstioSettings) -> str:
    return "" if namespace == settings.namespace else f"-{namespace}"


NAME: Final = "federation-guard"
MOST: Final = 64
MOST_IN_BUNDLES: Final = 5
"""Certificates of which every bundle is listed: there are 31, and twice as many with each further one."""


def guard_object(certificates: Collection[Certificate], *, namespace: str) -> dict[str, Any]:
    """The ConfigMap for these certificates. Raises InvalidValue where there are none, or too many for an object."""
    each = {certificate.sha256: certificate for certificate in certificates}
    if not 0 < len(each) <= MOST:
        raise InvalidValue(f"the guard takes 1 to {MOST} certificates, not {len(each)}")
    ordered = [each[sha256] for sha256 in sorted(each)]
    found: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": NAME,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "federation-hub"},
        },
        "data": {
            f"{certificate.sha256[:16]}.pem": certificate.pem.decode("ascii") for certificate in ordered
        },
    }
    if len(ordered) <= MOST_IN_BUNDLES:
        found["binaryData"] = {
            f"bundle-{number}": b2a_base64(encode_certificates(some), newline=False).decode("ascii")
            for number, some in enumerate(_bundles(ordered), 1)
        }
    return found


def _bundles(ordered: Collection[Certificate]) -> Iterator[tuple[Certificate, ...]]:
    """Every bundle with a root in it, its certificates in the order in which they are published."""
    for size in range(1, len(ordered) + 1):
        for some in combinations(ordered, size):
            if any(certificate.is_self_signed for certificate in some):
                yield some
