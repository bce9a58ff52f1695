{{/* The bundled Redis: its password and its users. */}}

{{/* Generates a password once and then reads it back from the secret. Without a cluster, each rendering generates one, and
     .Release keeps it for the whole rendering; Helm might store it if .Values kept it. */}}
{{- define "evenkeel.bundledPassword" -}}
{{- if .Values.redis.password -}}
{{- .Values.redis.password -}}
{{- else -}}
{{- $name := printf "%s-redis" (include "evenkeel.fullname" .) -}}
{{- if not (hasKey .Release $name) -}}
{{- $kept := dig "data" "password" "" (lookup "v1" "Secret" .Release.Namespace $name | default dict) | b64dec -}}
{{- $_ := set .Release $name (default (randAlphaNum 32) $kept) -}}
{{- end -}}
{{- index .Release $name -}}
{{- end -}}
{{- end -}}

{{/* One user with the permissions that docs/operations.md lists; no others. */}}
{{- define "evenkeel.bundledAcl" -}}
user default off
user evenkeel on #{{ include "evenkeel.bundledPassword" . | sha256sum }} resetkeys ~{{ with .Values.redis.keyPrefix }}{{ . }}:{{ end }}ek2:* resetchannels -@all {{ include "evenkeel.aclCommands" . }}
{{- end -}}

{{- define "evenkeel.aclCommands" -}}
+ping +info +set +time +eval +evalsha +get +mget +del +pexpire +pttl +lpush +rpush +lrange +ltrim +llen +hget +hmget +hgetall +hvals +hset +hdel +hexists +hlen +hscan +zadd +zrem +zcard +zscore +zrange +zrevrange +zrangebyscore +zrevrangebyscore +zremrangebyscore +unwatch
{{- end -}}
