{{/* The configuration as a map, from the values. (the root context) */}}
{{- define "federation-hub.settings" -}}
{{- $values := .Values -}}
{{- $all := deepCopy $values.configuration.settings -}}
{{- $_ := set $all "trust_domain" $values.trustDomain -}}

{{- $trust := $all.trust | default dict -}}
{{- $pins := list -}}
{{- range $values.anchors.pins -}}
{{- $pins = append $pins (merge (dict "file" (printf "/etc/federation/anchors/%s" .file)) (omit . "pem" "file")) -}}
{{- end -}}
{{- $_ := set $trust "anchors" $pins -}}
{{- $_ := set $all "trust" $trust -}}

{{- $names := prepend $values.service.hostnames (printf "federation-hub.%s.svc" .Release.Namespace) -}}
{{- $listener := mergeOverwrite (dict "listen" "0.0.0.0:15443" "server_names" (uniq $names) "drain" 15) ($all.listener | default dict) -}}
{{- $_ := set $all "listener" $listener -}}

{{- $authority := dict "kind" $values.authority.kind "name" "mesh-intermediate" -}}
{{- if eq $values.authority.kind "local" -}}
{{- $files := dict "certificate_file" "/etc/federation/intermediate/tls.crt" "key_file" "/etc/federation/intermediate/tls.key" -}}
{{- $authority = merge $authority $files -}}
{{- end -}}
{{- $authority = mergeOverwrite $authority (omit $values.authority.settings "kind") -}}
{{- $signer := mergeOverwrite (dict "health_listen" "0.0.0.0:15444") ($all.signer | default dict) (dict "authority" $authority) -}}
{{- if $values.authority.spiffe.enabled -}}
{{- $spiffe := mergeOverwrite (dict "socket" (printf "%s/api.sock" $values.authority.spiffe.path)) ($signer.spiffe | default dict) -}}
{{- $_ := set $signer "spiffe" $spiffe -}}
{{- end -}}
{{- $_ := set $all "signer" $signer -}}

{{- $status := dict "listen" "0.0.0.0:8080" "read_token_file" "/etc/federation/status/token" "operate_token_file" "/etc/federation/operate/token" -}}
{{- if $values.status.tls.enabled -}}
{{- $folder := empty $values.status.tls.secret | ternary "status" "status-tls" -}}
{{- $_ := set $status "certificate_file" (printf "/etc/federation/%s/tls.crt" $folder) -}}
{{- $_ := set $status "key_file" (printf "/etc/federation/%s/tls.key" $folder) -}}
{{- end -}}
{{- with $values.status.tokens -}}{{- $_ := set $status "tokens" . -}}{{- end -}}
{{- if $values.status.kubernetes.enabled -}}
{{- $_ := set $status "kubernetes" (dict "in_cluster" true "audience" $values.status.kubernetes.audience) -}}
{{- end -}}
{{- with $values.status.oidc -}}{{- $_ := set $status "oidc" . -}}{{- end -}}
{{- $_ := set $all "status" (mergeOverwrite $status ($all.status | default dict)) -}}

{{- if eq $values.state.kind "kubernetes" -}}
{{- $_ := set $all "state" (dict "kind" "kubernetes" "namespace" $values.state.namespace "in_cluster" true) -}}
{{- else -}}
{{- $_ := set $all "state" (dict "directory" "/var/lib/federation") -}}
{{- end -}}

{{- if include "federation-hub.renew" . -}}
{{- $secrets := dict "namespace" .Release.Namespace "signer" $values.kubeconfigs.signer "controller" $values.kubeconfigs.controller "in_cluster" true -}}
{{- $_ := set $all "kubeconfig_secrets" (mergeOverwrite $secrets ($all.kubeconfig_secrets | default dict)) -}}
{{- end -}}

{{- $discovery := dict -}}
{{- with $values.discovery.istioSecrets -}}{{- $_ := set $discovery "istio_secrets" . -}}{{- end -}}
{{- with $values.discovery.labelledSecrets -}}{{- $_ := set $discovery "labelled_secrets" . -}}{{- end -}}
{{- with $values.discovery.selector -}}{{- $_ := set $discovery "selector" . -}}{{- end -}}
{{- with $values.discovery.clusterProfiles -}}{{- $_ := set $discovery "cluster_profiles" . -}}{{- end -}}
{{- if $discovery -}}
{{- $_ := set $all "discovery" (mergeOverwrite (dict "in_cluster" true) $discovery ($all.discovery | default dict)) -}}
{{- end -}}

{{- $clusters := list -}}
{{- range $cluster := $values.clusters -}}
{{- $cluster = deepCopy $cluster -}}
{{- range $role := list "signer" "controller" -}}
{{- if not (or (hasKey $cluster $role) $cluster.kubeconfig $cluster.in_cluster) -}}
{{- $_ := set $cluster $role (dict "kubeconfig" (printf "/etc/federation/%s-kubeconfigs/%s" $role $cluster.name)) -}}
{{- end -}}
{{- end -}}
{{- $clusters = append $clusters $cluster -}}
{{- end -}}
{{- if $clusters -}}{{- $_ := set $all "clusters" $clusters -}}{{- end -}}
{{- toJson $all -}}
{{- end -}}

{{/* "true" where roles store what they renew in the Secrets that their kubeconfigs are mounted from. (the root context) */}}
{{- define "federation-hub.renew" -}}
{{- if eq (toString .Values.kubeconfigs.renew) "auto" -}}
{{- if eq .Values.state.kind "kubernetes" -}}true{{- end -}}
{{- else if .Values.kubeconfigs.renew -}}true{{- end -}}
{{- end -}}

{{/* "true" where the controller looks for clusters in this one. (the root context) */}}
{{- define "federation-hub.looks" -}}
{{- with .Values.discovery -}}{{- if or .istioSecrets .labelledSecrets .clusterProfiles -}}true{{- end -}}{{- end -}}
{{- end -}}

{{/* A TOML table: its own keys, and then the tables in it. Keys that say what a table is come first. Scalars and lists of them
     are JSON, which TOML reads alike. (list MAP PATH COMMENTS) */}}
{{- define "federation-hub.toml" -}}
{{- $map := index . 0 -}}{{- $path := index . 1 -}}{{- $comments := index . 2 -}}
{{- $order := list "trust_domain" "kind" "name" "cluster_id" "listen" "server_names" "trust" "listener" "signer" "authority" "controller" "status" "state" "kubeconfig_secrets" "discovery" -}}
{{- $keys := list -}}
{{- range $order -}}{{- if hasKey $map . -}}{{- $keys = append $keys . -}}{{- end -}}{{- end -}}
{{- range $key, $_ := $map -}}{{- if not (has $key (append $order "clusters")) -}}{{- $keys = append $keys $key -}}{{- end -}}{{- end -}}
{{- if hasKey $map "clusters" -}}{{- $keys = append $keys "clusters" -}}{{- end -}}
{{- range $key := $keys -}}
{{- $value := index $map $key -}}
{{- if not (or (kindIs "invalid" $value) (include "federation-hub.is-table" $value)) }}
{{ $key }} = {{ include "federation-hub.scalar" $value }}
{{- end -}}
{{- end -}}
{{- range $key := $keys -}}
{{- $value := index $map $key -}}
{{- $name := empty $path | ternary $key (printf "%s.%s" $path $key) -}}
{{- if kindIs "map" $value -}}
{{- $own := not $value -}}
{{- range $value -}}{{- if not (or (kindIs "invalid" .) (include "federation-hub.is-table" .)) -}}{{- $own = true -}}{{- end -}}{{- end -}}
{{- if $own }}
{{ with index $comments $name }}
{{ . }}
{{- end }}
[{{ $name }}]
{{- end -}}
{{- include "federation-hub.toml" (list $value $name $comments) -}}
{{- else if include "federation-hub.is-table" $value -}}
{{- range $index, $entry := $value }}
{{ with and (eq $index 0) (index $comments $name) }}
{{ . }}
{{- end }}
[[{{ $name }}]]
{{- include "federation-hub.toml" (list $entry $name $comments) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* "true" where TOML writes a value as a table, or as several. */}}
{{- define "federation-hub.is-table" -}}
{{- if kindIs "map" . -}}true{{- else if and (kindIs "slice" .) . -}}{{- if kindIs "map" (first .) -}}true{{- end -}}{{- end -}}
{{- end -}}

{{/* A string, number, boolean or list of them, as TOML. toJson writes <, > and & as \u escapes, which TOML reads, too. */}}
{{- define "federation-hub.scalar" -}}
{{- if kindIs "slice" . -}}
[{{- range $index, $each := . -}}{{ if $index }}, {{ end }}{{ include "federation-hub.scalar" $each }}{{- end -}}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}

{{/* clusters.toml. (the root context) */}}
{{- define "federation-hub.configuration" -}}
{{- if .Values.configuration.text -}}
{{ .Values.configuration.text }}
{{- else -}}
{{- $comments := dict -}}
{{- $_ := set $comments "trust.anchors" "# Your roots, from the ConfigMap of the anchors. The fingerprint is the pin: until it is your root's, nothing is signed\n# and nothing is published. openssl x509 -noout -fingerprint -sha256 -in root.pem" -}}
{{- $_ := set $comments "listener" "# server_names: every name that a mesh's caAddress uses." -}}
{{- $_ := set $comments "state" (eq .Values.state.kind "kubernetes" | ternary "# Objects of this cluster: what controllers write is in this namespace, what signers write in the one of the same name\n# with -signers behind it. On a volume write `directory = \"/var/lib/federation\"` and no more." "# The volume that all replicas share.") -}}
{{- $_ := set $comments "kubeconfig_secrets" "# Each role stores the tokens that it renews in the Secret that its kubeconfigs are mounted from." -}}
{{- $_ := set $comments "discovery" "# Where the controller looks for clusters that could be registered. It registers none by itself." -}}
{{- $_ := set $comments "clusters" "# One table for each member; the file names are the keys of the two kubeconfig Secrets." -}}
# What both roles read; clusters.example.toml documents every key. Paths are those of the volumes of signer.yaml and
# controller.yaml: each role mounts only its own.
{{ include "federation-hub.toml" (list (include "federation-hub.settings" . | fromJson) "" $comments) }}
{{ end -}}
{{- end -}}

{{/* "true" where pods get the token of their own account. (the root context) */}}
{{- define "federation-hub.token" -}}
{{- $wanted := false -}}
{{- if ne (toString .Values.accountToken) "auto" -}}
{{- $wanted = .Values.accountToken -}}
{{- else -}}
{{- $wanted = or (eq .Values.state.kind "kubernetes") (include "federation-hub.renew" .) .Values.authority.settings.in_cluster -}}
{{- range .Values.clusters -}}
{{- if or .in_cluster (dig "signer" "in_cluster" false .) (dig "controller" "in_cluster" false .) -}}{{- $wanted = true -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if $wanted -}}true{{- else -}}false{{- end -}}
{{- end -}}
