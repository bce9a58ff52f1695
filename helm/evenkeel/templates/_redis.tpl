{{/* The bundled Redis: its password and its users. */}}

{{/* A password made once stays: it is read back from the secret. Without a cluster to ask it is new with each rendering, and
     the same within one: kept in .Release, as what is put into .Values can get into the values Helm keeps. */}}
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

{{/* The rights of docs/operations.md, and no other user. */}}
{{- define "evenkeel.bundledAcl" -}}
user default off
user evenkeel on #{{ include "evenkeel.bundledPassword" . | sha256sum }} resetkeys ~{{ with .Values.redis.keyPrefix }}{{ . }}:{{ end }}ek2:* resetchannels -@all {{ include "evenkeel.aclCommands" . }}
{{- end -}}

{{- define "evenkeel.aclCommands" -}}
+ping +info +set +time +eval +evalsha +get +mget +del +pexpire +pttl +lpush +rpush +lrange +ltrim +llen +hget +hmget +hgetall +hvals +hset +hdel +hexists +hlen +hscan +zadd +zrem +zcard +zscore +zrange +zrevrange +zrangebyscore +zrevrangebyscore +zremrangebyscore +unwatch
{{- end -}}
