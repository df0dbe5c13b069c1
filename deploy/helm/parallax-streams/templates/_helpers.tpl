{{- define "parallax.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "parallax.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "parallax.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "parallax.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: parallax-streams
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* root, tag */}}
{{- define "parallax.image" -}}
{{- $image := .root.Values.image -}}
{{- if and $image.digest (not .tag) -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (.tag | default $image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Every group as it is in force, by name; checks what a schema cannot. */}}
{{- define "parallax.groups" -}}
{{- $found := dict -}}
{{- range $name, $group := .Values.groups -}}
{{- if $group -}}
{{- $whole := mergeOverwrite (deepCopy $.Values.groupDefaults) (deepCopy $group) -}}
{{- $most := ternary $whole.autoscaling.maxReplicas $whole.replicas $whole.autoscaling.enabled -}}
{{- if gt (int $most) (int $.Values.topics.partitions) -}}
{{- fail (printf "groups.%s: %d replicas, but topics.partitions is %d: those beyond it would have nothing to do" $name (int $most) (int $.Values.topics.partitions)) -}}
{{- end -}}
{{- if and $whole.autoscaling.enabled (gt (int $whole.autoscaling.minReplicas) (int $whole.autoscaling.maxReplicas)) -}}
{{- fail (printf "groups.%s.autoscaling: minReplicas is more than maxReplicas" $name) -}}
{{- end -}}
{{- $_ := set $found $name $whole -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- fail "groups: at least one is needed" -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/* Pods listen for others: a worker that requires no token does not start. */}}
{{- define "parallax.guarded" -}}
{{- $settings := .root.Values.settings -}}
{{- if not $settings.insecure -}}
{{- $web := default dict $settings.web_auth -}}
{{- if not (or .root.Values.webTokens.secretName $web.view_tokens $web.proxy_header) -}}
{{- fail "webTokens.secretName: is missing; kubectl create secret generic parallax-web --from-literal=view=$(openssl rand -hex 24), or settings.insecure=true" -}}
{{- end -}}
{{- if has "dispatch" .group.roles -}}
{{- $tls := default dict $settings.grpc_tls -}}
{{- $gateway := default dict $settings.gateway -}}
{{- if not (or .root.Values.gatewayTokens.secretName $gateway.agent_token $tls.client_ca_file) -}}
{{- fail "gatewayTokens.secretName: is missing; kubectl create secret generic parallax-gateway --from-literal=agent=$(openssl rand -hex 24) --from-literal=relay=$(openssl rand -hex 24), or settings.insecure=true" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* parallax.toml: JSON's scalars and lists are TOML's. */}}
{{- define "parallax.toml" -}}
{{- range $name, $value := .Values.settings -}}
{{- if and (not (kindIs "map" $value)) (not (kindIs "invalid" $value)) }}
{{ $name }} = {{ toJson $value }}
{{- end -}}
{{- end -}}
{{- range $section, $values := .Values.settings -}}
{{- if kindIs "map" $values }}

[{{ $section }}]
{{- range $name, $value := $values }}
{{- if not (kindIs "invalid" $value) }}
{{ $name }} = {{ toJson $value }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "parallax.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "parallax.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What every pod of the release has in common; a Service named parallax would otherwise set PARALLAX_PORT, an unknown setting. */}}
{{- define "parallax.podCommon" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.serviceAccount.name }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "parallax.podSecurityContext" . | nindent 2 }}
{{- end -}}

{{- define "parallax.secretEnv" -}}
{{- with .Values.kafkaPassword }}
{{- if .secretName }}
- name: PARALLAX_KAFKA__SASL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .secretName }}
      key: {{ .key }}
{{- end }}
{{- end }}
{{- with .Values.webTokens }}
{{- if .secretName }}
- name: PARALLAX_WEB_AUTH__VIEW_TOKENS
  value: file:/secrets/web/{{ .viewKey }}
{{- if .operateKey }}
- name: PARALLAX_WEB_AUTH__OPERATE_TOKENS
  value: file:/secrets/web/{{ .operateKey }}
{{- end }}
{{- end }}
{{- end }}
{{- with .Values.gatewayTokens }}
{{- if .secretName }}
- name: PARALLAX_GATEWAY__AGENT_TOKEN
  value: file:/secrets/gateway/{{ .agentKey }}
- name: PARALLAX_GATEWAY__RELAY_TOKEN
  value: file:/secrets/gateway/{{ .relayKey }}
{{- end }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* root, config: the name of the ConfigMap with parallax.toml */}}
{{- define "parallax.volumes" -}}
- name: config
  configMap:
    name: {{ .config }}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
{{- with .root.Values.webTokens.secretName }}
- name: web-tokens
  secret:
    secretName: {{ . }}
    defaultMode: 288
{{- end }}
{{- with .root.Values.gatewayTokens.secretName }}
- name: gateway-tokens
  secret:
    secretName: {{ . }}
    defaultMode: 288
{{- end }}
{{- range .root.Values.secretMounts }}
- name: secret-{{ .name }}
  secret:
    secretName: {{ .secretName }}
    defaultMode: 288
    optional: {{ default false .optional }}
{{- end }}
{{- end -}}

{{- define "parallax.volumeMounts" -}}
- name: config
  mountPath: /etc/parallax
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if .Values.webTokens.secretName }}
- name: web-tokens
  mountPath: /secrets/web
  readOnly: true
{{- end }}
{{- if .Values.gatewayTokens.secretName }}
- name: gateway-tokens
  mountPath: /secrets/gateway
  readOnly: true
{{- end }}
{{- range .Values.secretMounts }}
- name: secret-{{ .name }}
  mountPath: /secrets/{{ .name }}
  readOnly: true
{{- end }}
{{- end -}}
