{{/* The name of everything of this release: the release's own, with the chart's where it lacks it. */}}
{{- define "asyncrl.name" -}}
{{- $name := ternary .Release.Name (printf "%s-asyncrl" .Release.Name) (contains "asyncrl" .Release.Name) -}}
{{- $name | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{- define "asyncrl.selectorLabels" -}}
app.kubernetes.io/name: asyncrl-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "asyncrl.labels" -}}
{{ include "asyncrl.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: asyncrl
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The labels, and a user's; the user's cannot replace ours, which selectors rest on. */}}
{{- define "asyncrl.labelsAnd" -}}
{{- toYaml (merge (fromYaml (include "asyncrl.labels" (index . 0))) (index . 1)) -}}
{{- end }}

{{- define "asyncrl.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "asyncrl.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end }}

{{/* An image of a section of the values: by digest where there is one, else by tag. */}}
{{- define "asyncrl.image" -}}
{{- $image := .image -}}
{{- $tag := $image.tag | default .appVersion -}}
{{- if $image.digest -}}
{{- if $image.tag -}}
{{ $image.repository }}:{{ $image.tag }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}@{{ $image.digest }}
{{- end -}}
{{- else -}}
{{ $image.repository }}:{{ $tag }}
{{- end -}}
{{- end }}

{{/*
What the operator may do where it watches: nothing that it does not do. Objects other than Jobs go
with the job that owns them; Secrets are read by name only, so neither list nor watch.
*/}}
{{- define "asyncrl.rules" -}}
- apiGroups: [asyncrl.io]
  resources: [asyncrljobs]
  verbs: [list, watch, delete]
- apiGroups: [asyncrl.io]
  resources: [asyncrljobs/status]
  verbs: [patch]
- apiGroups: [asyncrl.io]
  resources: [asyncrljobs/finalizers]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, create]
- apiGroups: [""]
  resources: [services, configmaps, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end }}
