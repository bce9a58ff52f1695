{{/* The password and the users of the bundled Redis. */}}

{{/* Generates a password at the first installation, and later reads it from the secret. Without access to a cluster,
     each rendering generates a password. The password is stored in .Release, so that all manifests of a rendering use
     the same one. It is not stored in .Values, because Helm might save these with the release. */}}
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

{{/* One user, with exactly the permissions that docs/operations.md lists. */}}
{{- define "evenkeel.bundledAcl" -}}
user default off
user evenkeel on #{{ include "evenkeel.bundledPassword" . | sha256sum }} resetkeys ~{{ with .Values.redis.keyPrefix }}{{ . }}:{{ end }}ek2:* resetchannels -@all {{ include "evenkeel.aclCommands" . }}
{{- end -}}

{{- define "evenkeel.aclCommands" -}}
+ping +info +set +time +eval +evalsha +get +mget +mset +exists +del +pexpire +pttl +lpush +rpush +lrange +ltrim +llen +hget +hmget +hgetall +hvals +hset +hdel +hexists +hlen +hscan +xadd +xrange +xrevrange +zadd +zrem +zcard +zcount +zscore +zmscore +zrange +zrevrange +zrangebyscore +zrevrangebyscore +zremrangebyscore
{{- end -}}
