{{- define "memori.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "memori.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "memori.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "memori.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What values.schema.json cannot say: values that must fit each other. */}}
{{- define "memori.check" -}}
{{- $v := .Values -}}
{{- if not $v.kafka.brokers }}{{ fail "kafka.brokers is empty: give the brokers as host:port,host:port" }}{{ end -}}
{{- if and (not $v.postgres.url) (not $v.postgres.existingSecret.name) }}{{ fail "postgres.url is empty: give it, or name a Secret that has it in postgres.existingSecret.name" }}{{ end -}}
{{- if and $v.postgres.url $v.postgres.existingSecret.name }}{{ fail "postgres.url and postgres.existingSecret.name are both given: keep one" }}{{ end -}}
{{- if eq $v.extractor.kind "llm" -}}
{{- if not (and $v.extractor.baseUrl $v.extractor.model) }}{{ fail "extractor.kind is llm: give extractor.baseUrl and extractor.model" }}{{ end -}}
{{- end -}}
{{- if eq $v.embedding.kind "openai" -}}
{{- if not (and $v.embedding.baseUrl $v.embedding.model $v.embedding.dimensions) }}{{ fail "embedding.kind is openai: give embedding.baseUrl, embedding.model and embedding.dimensions" }}{{ end -}}
{{- end -}}
{{- if $v.worker.autoscaling.enabled -}}
{{- if not $v.worker.autoscaling.prometheus.serverAddress }}{{ fail "worker.autoscaling is enabled: give worker.autoscaling.prometheus.serverAddress" }}{{ end -}}
{{- if gt (int $v.worker.autoscaling.maxReplicas) (int $v.kafka.partitions) }}{{ fail (printf "worker.autoscaling.maxReplicas is %d, and there are %d partitions: more workers than partitions have nothing to do" (int $v.worker.autoscaling.maxReplicas) (int $v.kafka.partitions)) }}{{ end -}}
{{- if gt (int $v.worker.autoscaling.minReplicas) (int (include "memori.ceiling" .)) }}{{ fail (printf "worker.autoscaling.minReplicas is %d, above its ceiling of %s" (int $v.worker.autoscaling.minReplicas) (include "memori.ceiling" .)) }}{{ end -}}
{{- if and $v.worker.autoscaling.businessHours.enabled (gt (int $v.worker.autoscaling.businessHours.replicas) (int (include "memori.ceiling" .))) }}{{ fail (printf "worker.autoscaling.businessHours.replicas is %d, above the ceiling of %s" (int $v.worker.autoscaling.businessHours.replicas) (include "memori.ceiling" .)) }}{{ end -}}
{{- else if gt (int $v.worker.replicas) (int $v.kafka.partitions) }}{{ fail (printf "worker.replicas is %d, and there are %d partitions: more workers than partitions have nothing to do" (int $v.worker.replicas) (int $v.kafka.partitions)) }}{{ end -}}
{{- if and $v.replays.enabled (gt (int $v.replays.replicas) (int $v.kafka.partitions)) }}{{ fail (printf "replays.replicas is %d, and there are %d partitions: more workers than partitions have nothing to do" (int $v.replays.replicas) (int $v.kafka.partitions)) }}{{ end -}}
{{- if $v.archiver.enabled -}}
{{- if and $v.archiver.url $v.archiver.volume.existingClaim }}{{ fail "archiver.url and archiver.volume.existingClaim are both given: keep one" }}{{ end -}}
{{- if and $v.archiver.existingSecret.env (not $v.archiver.existingSecret.name) }}{{ fail "archiver.existingSecret.env is given: name the Secret in archiver.existingSecret.name" }}{{ end -}}
{{- if and (not $v.archiver.url) (ne $v.archiver.volume.accessMode "ReadWriteMany") (gt (int $v.archiver.replicas) 1) }}{{ fail (printf "archiver.replicas is %d, and its volume is one machine's: archiver.volume.accessMode ReadWriteMany, or one" (int $v.archiver.replicas)) }}{{ end -}}
{{- if gt (int $v.archiver.replicas) (int $v.kafka.partitions) }}{{ fail (printf "archiver.replicas is %d, and there are %d partitions: more archivers than partitions have nothing to do" (int $v.archiver.replicas) (int $v.kafka.partitions)) }}{{ end -}}
{{- end -}}
{{- if gt (int $v.writer.replicas) (int $v.kafka.partitions) }}{{ fail (printf "writer.replicas is %d, and there are %d partitions: more writers than partitions have nothing to write" (int $v.writer.replicas) (int $v.kafka.partitions)) }}{{ end -}}
{{- if and $v.ingress.enabled (not $v.ingress.host) }}{{ fail "ingress is enabled: give ingress.host" }}{{ end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) }}{{ fail "httpRoute is enabled: give httpRoute.parentRefs" }}{{ end -}}
{{- end -}}

{{/* As many processes as may ask the model at a time. */}}
{{- define "memori.extractors" -}}
{{- add (ternary (include "memori.ceiling" .) .Values.worker.replicas .Values.worker.autoscaling.enabled | int) (ternary .Values.replays.replicas 0 .Values.replays.enabled | int) -}}
{{- end -}}

{{/* As many workers as may run. */}}
{{- define "memori.ceiling" -}}
{{- if .Values.worker.autoscaling.maxReplicas }}{{ int .Values.worker.autoscaling.maxReplicas }}{{ else }}{{ int .Values.kafka.partitions }}{{ end -}}
{{- end -}}

{{/* Four fifths of the spool's volume, in bytes: a full file system cannot even be read in order. */}}
{{- define "memori.spoolBytes" -}}
{{- $size := .Values.ingest.spool.size -}}
{{- $unit := dict "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $number := regexFind "^[0-9]+" $size | int64 -}}
{{- div (mul $number (int64 (get $unit (regexFind "[A-Z]i$" $size))) 4) 5 -}}
{{- end -}}

{{/* What runs for good. */}}
{{- define "memori.components" -}}
{{- $all := list "ingest" "augment-worker" "writer" -}}
{{- if .Values.replays.enabled }}{{ $all = append $all "replay-worker" }}{{ end -}}
{{- if .Values.archiver.enabled }}{{ $all = append $all "archiver" }}{{ end -}}
{{ toJson $all }}
{{- end -}}

{{- define "memori.selector" -}}
app.kubernetes.io/name: {{ include "memori.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "memori.labels" -}}
{{ include "memori.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "memori.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "memori.serviceAccount" -}}
{{- default (ternary (include "memori.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "memori.authSecret" -}}
{{- default (printf "%s-auth" (include "memori.fullname" .)) .Values.auth.existingSecret -}}
{{- end -}}

{{- define "memori.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "memori.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "memori.kafkaEnv" -}}
{{- with .Values.kafka }}
- {name: MEMORI__KAFKA__BROKERS, value: {{ .brokers | quote }}}
- {name: MEMORI__KAFKA__TOPIC_PREFIX, value: {{ .topicPrefix | quote }}}
- {name: MEMORI__KAFKA__PARTITIONS, value: {{ .partitions | quote }}}
{{- if .replicationFactor }}
- {name: MEMORI__KAFKA__REPLICATION_FACTOR, value: {{ .replicationFactor | quote }}}
{{- end }}
- {name: MEMORI__KAFKA__GROUP_PROTOCOL, value: {{ .groupProtocol | quote }}}
{{- with $.Values.registry.url }}
- {name: MEMORI__REGISTRY__URL, value: {{ . | quote }}}
{{- end }}
{{- range $name, $value := .properties }}
- {name: MEMORI__KAFKA__PROPERTIES__{{ upper $name }}, value: {{ $value | quote }}}
{{- end }}
{{- range $name, $key := .existingSecret.properties }}
- {name: MEMORI__KAFKA__PROPERTIES__{{ upper $name }}, valueFrom: {secretKeyRef: {name: {{ $.Values.kafka.existingSecret.name | quote }}, key: {{ $key | quote }}}}}
{{- end }}
{{- if .caSecret.name }}
- {name: MEMORI__KAFKA__PROPERTIES__SSL_CA_LOCATION, value: /etc/memori/kafka-ca/{{ .caSecret.key }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* {root, secret}: the Secret with the URLs that values give */}}
{{- define "memori.postgresEnv" -}}
{{- $given := .root.Values.postgres.existingSecret -}}
{{- $of := dict "URL" (ternary $given.urlKey "url" (ne $given.name "")) -}}
{{- if or $given.sinkUrlKey .root.Values.postgres.sinkUrl }}{{ $_ := set $of "SINK_URL" (ternary $given.sinkUrlKey "sink-url" (ne $given.name "")) }}{{ end -}}
{{- if or $given.recallUrlKey .root.Values.postgres.recallUrl }}{{ $_ := set $of "RECALL_URL" (ternary $given.recallUrlKey "recall-url" (ne $given.name "")) }}{{ end -}}
{{- range $name, $key := $of }}
{{- if $key }}
- {name: MEMORI__POSTGRES__{{ $name }}, valueFrom: {secretKeyRef: {name: {{ default $.secret $given.name | quote }}, key: {{ $key | quote }}}}}
{{- end }}
{{- end }}
{{- end -}}

{{- define "memori.authEnv" -}}
- {name: MEMORI__AUTH__KEYS_FILE, value: /etc/memori/auth/keys.toml}
- {name: MEMORI__AUTH__INTERNAL_TOKEN, valueFrom: {secretKeyRef: {name: {{ include "memori.authSecret" . | quote }}, key: internal-token}}}
{{- end -}}

{{- define "memori.embeddingEnv" -}}
{{- with .Values.embedding }}
- {name: MEMORI__EMBEDDING__KIND, value: {{ .kind | quote }}}
{{- if eq .kind "openai" }}
- {name: MEMORI__EMBEDDING__BASE_URL, value: {{ .baseUrl | quote }}}
- {name: MEMORI__EMBEDDING__MODEL, value: {{ .model | quote }}}
- {name: MEMORI__EMBEDDING__DIMENSIONS, value: {{ .dimensions | quote }}}
{{- if or .apiKey .existingSecret.name }}
- {name: MEMORI__EMBEDDING__API_KEY, valueFrom: {secretKeyRef: {name: {{ default (printf "%s-connections" (include "memori.fullname" $)) .existingSecret.name | quote }}, key: {{ ternary .existingSecret.key "embedding-api-key" (ne .existingSecret.name "") | quote }}}}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Whether the archive's folder is a volume that this one mounts: "write", "read", or nothing. {root, archiver} */}}
{{- define "memori.archiveVolume" -}}
{{- with .root.Values.archiver -}}
{{- if and .enabled (not .url) -}}
{{- if $.archiver }}write{{ else if eq .volume.accessMode "ReadWriteMany" }}read{{ end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* {root, archiver}: where the archive is, for whoever can reach it */}}
{{- define "memori.archiveEnv" -}}
{{- $volume := include "memori.archiveVolume" . -}}
{{- with .root.Values.archiver -}}
{{- if and .enabled (or .url $volume) }}
- {name: MEMORI__ARCHIVE__URL, value: {{ default "/var/lib/memori-archive" .url | quote }}}
{{- range $name, $key := .existingSecret.env }}
- {name: {{ $name }}, valueFrom: {secretKeyRef: {name: {{ $.root.Values.archiver.existingSecret.name | quote }}, key: {{ $key | quote }}}}}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* {root, admin, own}: of every process */}}
{{- define "memori.commonEnv" -}}
{{- with .root.Values }}
- {name: MEMORI__LOG__FORMAT, value: {{ .log.format | quote }}}
- {name: MEMORI__LOG__LEVEL, value: {{ .log.level | quote }}}
- {name: MEMORI__START__DEADLINE_MS, value: {{ mul (int64 .start.deadlineSeconds) 1000 | quote }}}
- {name: MEMORI__SHUTDOWN__DEADLINE_MS, value: {{ mul (int64 .shutdown.deadlineSeconds) 1000 | quote }}}
{{- if .otlp.endpoint }}
- {name: MEMORI__OTLP__ENDPOINT, value: {{ .otlp.endpoint | quote }}}
{{- end }}
{{- end }}
{{- with .admin }}
- {name: MEMORI__ADMIN__LISTEN, value: {{ printf "%s:%d" $.root.Values.listenHost (int .) | quote }}}
{{- end }}
{{- with .root.Values.env }}
{{ toYaml . }}
{{- end }}
{{- with .own }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* {root, command}: the command, with the configuration file where there is one */}}
{{- define "memori.command" -}}
{{- $line := .command -}}
{{- if .root.Values.config }}{{ $line = concat $line (list "--config" "/etc/memori/config/config.yaml") }}{{ end -}}
{{ toJson $line }}
{{- end -}}

{{/* {root, config: name of the source, kind, auth}: mounts */}}
{{- define "memori.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .auth }}
- {name: auth, mountPath: /etc/memori/auth, readOnly: true}
{{- end }}
{{- if .root.Values.config }}
- {name: config, mountPath: /etc/memori/config, readOnly: true}
{{- end }}
{{- if .root.Values.kafka.caSecret.name }}
- {name: kafka-ca, mountPath: /etc/memori/kafka-ca, readOnly: true}
{{- end }}
{{- with include "memori.archiveVolume" . }}
- {name: archive, mountPath: /var/lib/memori-archive, readOnly: {{ eq . "read" }}}
{{- end }}
{{- end -}}

{{- define "memori.volumes" -}}
- {name: tmp, emptyDir: {sizeLimit: 64Mi}}
{{- if .auth }}
- name: auth
  # the keys themselves stay in the Secret: a process needs their hashes
  secret: {secretName: {{ include "memori.authSecret" .root | quote }}, items: [{key: keys.toml, path: keys.toml}]}
{{- end }}
{{- if .root.Values.config }}
- name: config
  {{- if .setup }}
  secret: {secretName: {{ printf "%s-setup" (include "memori.fullname" .root) | quote }}, items: [{key: config.yaml, path: config.yaml}]}
  {{- else }}
  configMap: {name: {{ include "memori.fullname" .root | quote }}}
  {{- end }}
{{- end }}
{{- with .root.Values.kafka.caSecret }}
{{- if .name }}
- name: kafka-ca
  secret: {secretName: {{ .name | quote }}}
{{- end }}
{{- end }}
{{- with include "memori.archiveVolume" . }}
- name: archive
  persistentVolumeClaim: {claimName: {{ default (printf "%s-archive" (include "memori.fullname" $.root)) $.root.Values.archiver.volume.existingClaim | quote }}, readOnly: {{ eq . "read" }}}
{{- end }}
{{- end -}}

{{- define "memori.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end -}}

{{/* {root, component, values, hash}: where pods go */}}
{{- define "memori.placement" -}}
{{- if .values.topologySpread }}
topologySpreadConstraints:
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {matchLabels: {{ include "memori.selector" $ | fromYaml | toJson }}}
    {{- if $.hash }}
    matchLabelKeys: [pod-template-hash]
    {{- end }}
{{- end }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* {root, component, values}: what stands at a pod's head */}}
{{- define "memori.podMeta" -}}
labels:
  {{- include "memori.labels" . | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ .component }}
  {{- if .root.Values.config }}
  # a changed file restarts the pods
  checksum/config: {{ toYaml .root.Values.config | sha256sum }}
  {{- end }}
  {{- with .root.Values.postgres }}
  checksum/connections: {{ printf "%s%s%s%s%s" .url .sinkUrl .recallUrl $.root.Values.extractor.apiKey $.root.Values.embedding.apiKey | sha256sum }}
  {{- end }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "memori.podHead" -}}
serviceAccountName: {{ include "memori.serviceAccount" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "memori.podSecurity" . | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - {name: {{ . | quote }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* {root, component, values} */}}
{{- define "memori.disruptionBudget" -}}
{{- if .values.disruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "memori.fullname" .root }}-{{ .component }}
  labels:
    {{- include "memori.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .values.disruptionBudget.maxUnavailable }}
  # a pod that is not ready anyway holds up no node's drain
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "memori.selector" . | nindent 6 }}
{{- end }}
{{- end -}}
