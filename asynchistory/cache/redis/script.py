"""The changes, as one script that Redis runs as a whole."""

from __future__ import annotations

from hashlib import sha1

#: KEYS: the key. ARGV: what to do, a stamp, content, milliseconds, the most bytes, a stamp.
#: It never deletes: what is gone is buried with its version, or an older one that is still on
#: its way would be taken.
SCRIPT = b"""
local key, what, new, content = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local life, most, before = ARGV[4], tonumber(ARGV[5]), ARGV[6]
local start = redis.call('GETRANGE', key, 0, 41)
local kind, held = string.sub(start, 1, 1), string.sub(start, 2)

local function bury(version)
    redis.call('SET', key, 'B' .. version .. '\\n', 'PX', life)
end

if what == 'keep' then
    local newer = held < new
    local longer = held == new and (kind == 'B' or redis.call('STRLEN', key) < #content)
    if newer or longer then
        redis.call('SET', key, content, 'PX', life)
        return 1
    end
elseif what == 'extend' then
    if kind == 'T' and held == before and redis.call('STRLEN', key) + #content <= most then
        redis.call('APPEND', key, content)
        redis.call('SETRANGE', key, 1, new)
        redis.call('PEXPIRE', key, life)
        return 1
    elseif kind ~= '' and held < new then
        bury(new)
    end
elseif what == 'bury' then
    if held < new then
        bury(new)
        return 1
    end
elseif kind == 'T' then
    bury(string.sub(held, 1, 20) .. ' 99999999999999999999')
    return 1
end
return 0
"""
SHA = sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
