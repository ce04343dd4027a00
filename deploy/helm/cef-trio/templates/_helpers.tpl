{{- /* The name of all objects: the release's, with the chart's if that is not part of it. */ -}}
{{- define "cef-trio.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* What objects and pods are selected by; never changed, since a StatefulSet's selector cannot be. */ -}}
{{- define "cef-trio.selector" -}}
app.kubernetes.io/name: {{ include "cef-trio.name" . }}
{{- end -}}

{{- define "cef-trio.labels" -}}
{{ include "cef-trio.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}
