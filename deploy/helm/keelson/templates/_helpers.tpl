{{/* Of every object. */}}
{{- define "keelson.labels" -}}
app.kubernetes.io/part-of: keelson
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* Of a pod, and for whoever selects it: "keelson.pod" (list name). */}}
{{- define "keelson.pod" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: keelson
{{- end }}

{{/* "keelson.image" (list . program) */}}
{{- define "keelson.image" -}}
{{- $root := index . 0 -}}
{{ $root.Values.image.hub }}/{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{- define "keelson.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where a pod finds itself. */}}
{{- define "keelson.self" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- end }}
