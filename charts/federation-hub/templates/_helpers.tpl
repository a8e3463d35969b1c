{{/* The labels of an object: the chart's own, its component where it has one, and commonLabels. (list $ COMPONENT) */}}
{{- define "federation-hub.labels" -}}
{{- $labels := dict "app.kubernetes.io/part-of" "federation-hub" -}}
{{- with index . 1 -}}{{- $_ := set $labels "app.kubernetes.io/component" . -}}{{- end -}}
{{- toYaml (mergeOverwrite (deepCopy (index . 0).Values.commonLabels) $labels) -}}
{{- end -}}

{{/* By what a role's pods are selected. (ROLE) */}}
{{- define "federation-hub.selector" -}}
app.kubernetes.io/name: federation-hub
app.kubernetes.io/component: {{ . }}
{{- end -}}

{{/* The key `annotations` with commonAnnotations and those given, or nothing. (list $ MAP) */}}
{{- define "federation-hub.annotations" -}}
{{- with mergeOverwrite (deepCopy (index . 0).Values.commonAnnotations) (index . 1) }}
  {{- dict "annotations" . | toYaml | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "federation-hub.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* "true" on OpenShift, as values or the cluster say. */}}
{{- define "federation-hub.openshift" -}}
{{- if eq (toString .Values.openshift) "auto" -}}
{{- if .Capabilities.APIVersions.Has "security.openshift.io/v1" -}}true{{- end -}}
{{- else if .Values.openshift -}}true{{- end -}}
{{- end -}}

{{/* "true" where an object of a kind that not every cluster has is wanted. (list $ WANTED APIVERSION/KIND) */}}
{{- define "federation-hub.wanted" -}}
{{- if eq (toString (index . 1)) "auto" -}}
{{- if (index . 0).Capabilities.APIVersions.Has (index . 2) -}}true{{- end -}}
{{- else if index . 1 -}}true{{- end -}}
{{- end -}}

{{/* What of a pod is the same in both roles, up to its containers. (list $ ROLE) */}}
{{- define "federation-hub.pod" -}}
{{- $ := index . 0 -}}{{- $role := index . 1 -}}{{- $own := index $.Values $role -}}
securityContext:
  runAsNonRoot: true
  {{- if not (include "federation-hub.openshift" $) }}
  runAsUser: 65532
  runAsGroup: 65532
  # Mounted files belong to root and this group: 0440 lets the role read them, and no other user. Files with keys or
  # tokens that others could read are refused.
  fsGroup: 65532
  {{- end }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with $.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with $own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml (omit . "labelSelector" "matchLabelKeys") | indent 4 | trim }}
    {{- if .labelSelector }}
    labelSelector:
      {{- toYaml .labelSelector | nindent 6 }}
    {{- with .matchLabelKeys }}
    matchLabelKeys:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- else }}
    labelSelector:
      matchLabels:
        {{- include "federation-hub.selector" $role | nindent 8 }}
    matchLabelKeys:
      {{- toYaml (.matchLabelKeys | default (list "pod-template-hash")) | nindent 6 }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What of a container is the same in both roles, after its ports. (list $ ROLE) */}}
{{- define "federation-hub.container" -}}
{{- $ := index . 0 -}}{{- $own := index $.Values (index . 1) -}}
# Importing gRPC and loading keys takes a second or two; the first lists of large clusters come later and are
# readiness, not life.
startupProbe:
  httpGet:
    path: /healthz
    port: probes
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet:
    path: /healthz
    port: probes
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: probes
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
lifecycle:
  # Time for every node to stop sending new connections here before the role begins to drain.
  preStop:
    sleep:
      seconds: 5
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop:
      - ALL
# No CPU limit on purpose: throttling shows as latency, and the request already gives each replica its share.
resources:
  {{- toYaml $own.resources | nindent 2 }}
{{- end -}}

{{/* The environment of a container. (list $ ROLE) */}}
{{- define "federation-hub.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- with (index (index . 0).Values (index . 1)).env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Mounts and volumes that both roles have. (list $ ROLE) */}}
{{- define "federation-hub.mounts" -}}
{{- $ := index . 0 -}}{{- $role := index . 1 -}}
- name: config
  mountPath: /etc/federation/config
  readOnly: true
- name: anchors
  mountPath: /etc/federation/anchors
  readOnly: true
- name: kubeconfigs
  mountPath: /etc/federation/{{ $role }}-kubeconfigs
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if eq $.Values.state.kind "files" }}
- name: state
  mountPath: /var/lib/federation
{{- end }}
{{- with (index $.Values $role).volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "federation-hub.volumes" -}}
{{- $ := index . 0 -}}{{- $role := index . 1 -}}
- name: config
  configMap:
    name: federation-config
- name: anchors
  configMap:
    name: {{ $.Values.anchors.configMap }}
# A key for each member. It may come after the hub: `federation clusters add` makes it with the first one.
- name: kubeconfigs
  secret:
    secretName: {{ index $.Values.kubeconfigs $role }}
    defaultMode: 0440
    optional: true
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 16Mi
{{- if eq $.Values.state.kind "files" }}
- name: state
  persistentVolumeClaim:
    claimName: {{ $.Values.state.volume.existingClaim | default "federation-state" }}
{{- end }}
{{- with (index $.Values $role).volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
