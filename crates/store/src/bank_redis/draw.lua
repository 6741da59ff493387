-- Takes and gives back: `Bank::draw`.
--
-- KEYS  book, gateways, calls, then the account of each wish
-- ARGV  gateway, number, complete (0 or 1), time to live (ms), how long keys are kept (ms), then for each wish
--       its kind (P, S or R), capacity or units per minute, spent, has, want, least
--
-- Answers {'LOST'}, {'OUTDATED'}, {'RECOVERING', ms}, {'UNKNOWN', index...} or
-- {'STANDINGS', granted, called in, then for each wish taken, left, spare elsewhere, nanoseconds to wait}.

local book_key, gateways_key, calls_key = KEYS[1], KEYS[2], KEYS[3]
local me, number, complete = ARGV[1], ARGV[2], ARGV[3] == '1'
local time_to_live, keep = tonumber(ARGV[4]), tonumber(ARGV[5])

local CALL_MILLIS = 1000
local MAX_CALLS = 32
local ASK_AGAIN_MILLIS = 250
local NEVER = '9223372036854775807'
local PARTS = {P = 8, S = 1, R = 4}

local book = {}
local flat = redis.call('HGETALL', book_key)
for at = 1, #flat, 2 do book[flat[at]] = flat[at + 1] end
if book.run ~= server() then return {'LOST'} end
local epoch = book.epoch

-- Takes note of the gateway, unless the message is an old one.
local gateways = read_gateways(gateways_key)
local known = gateways[me]
if known ~= nil and not less(amount(known.number), amount(number)) then return {'OUTDATED'} end
local before = nil
if is_live(known) then before = known.joined end
local joined = number
if not complete and before ~= nil then joined = before end
gateways[me] = {number = number, joined = joined, expires = now_millis + time_to_live + 2}
redis.call(
  'HSET', gateways_key, me,
  number .. ' ' .. joined .. ' ' .. number_text(gateways[me].expires)
)
redis.call('PEXPIRE', gateways_key, keep)
redis.call('PEXPIRE', book_key, keep)

local wishes = {}
for at = 4, #KEYS do
  local first = 6 + (at - 4) * 6
  local wish = {
    kind = ARGV[first],
    account = read_account(KEYS[at], epoch),
    name = KEYS[at],
    touched = false
  }
  if wish.kind == 'R' then
    wish.rate = pace(tonumber(ARGV[first + 1]))
    wish.per_minute = math.min(tonumber(ARGV[first + 1]), MOST_UNITS)
    wish.has = tonumber(ARGV[first + 3])
    wish.want = tonumber(ARGV[first + 4])
    wish.least = tonumber(ARGV[first + 5])
  else
    wish.capacity = amount(ARGV[first + 1])
    wish.spent = amount(ARGV[first + 2])
    wish.has = amount(ARGV[first + 3])
    wish.want = amount(ARGV[first + 4])
    wish.least = amount(ARGV[first + 5])
  end
  table.insert(wishes, wish)
end

local function write_touched()
  for _, wish in ipairs(wishes) do
    if wish.touched then write_account(wish.account, epoch, keep) end
  end
end

-- While memory is being restored: writes down what the gateway has.
if book.recovering == '1' then
  local spoken = book['s:' .. me] == '1'
  local first = not spoken
  local speaks = complete or spoken
  if speaks then
    redis.call('HDEL', book_key, 'w:' .. me)
    redis.call('HSET', book_key, 's:' .. me, '1')
    book['w:' .. me] = nil
    for _, wish in ipairs(wishes) do
      wish.touched = true
      if wish.kind ~= 'R' then
        local claim = claim_of(wish.account, me)
        claim.spent = larger(claim.spent, wish.spent)
        claim.taken = larger(wish.has, claim.spent)
        claim.joined = joined
      elseif first and wish.has > 0 and wish.rate.per_minute > 0 then
        local whole = math.max(wish.account.whole, now) + micros_for(wish.rate, wish.has)
        wish.account.whole = math.min(whole, now + MINUTE_MICROS)
      end
    end
    before = joined
  end
  local last = nil
  for field, value in pairs(book) do
    if string.sub(field, 1, 2) == 'w:' then
      local till = tonumber(value)
      if now_millis >= till then
        redis.call('HDEL', book_key, field)
      elseif last == nil or till > last then
        last = till
      end
    end
  end
  if last ~= nil then
    write_touched()
    if speaks then
      return {'RECOVERING', number_text(math.min(last - now_millis, ASK_AGAIN_MILLIS))}
    end
    return {'RECOVERING', '0'}
  end
  for field in pairs(book) do
    if string.sub(field, 1, 2) == 's:' then redis.call('HDEL', book_key, field) end
  end
  redis.call('HDEL', book_key, 'recovering', 's:' .. me)
end

-- What never fails: telling what is spent, and giving back.
for _, wish in ipairs(wishes) do
  if wish.kind ~= 'P' or wish.account.exists or wish.touched then
    wish.touched = true
    if wish.kind ~= 'R' then
      local claim = claim_of(wish.account, me)
      local counted = before ~= nil and before == claim.joined
      claim.spent = larger(claim.spent, wish.spent)
      local had = claim.spent
      if counted then had = larger(claim.taken, claim.spent) end
      claim.taken = smaller(had, larger(wish.want, claim.spent))
      claim.joined = joined
    elseif wish.want < 0 and wish.rate.per_minute > 0 then
      wish.account.whole = math.max(0, wish.account.whole - micros_back(wish.rate, -wish.want))
    end
  end
end

-- Pools that were never founded in this epoch, and those of which a gateway had more than it said it spent
-- when it died, restarted or fell silent.
local unknown = {'UNKNOWN'}
for at, wish in ipairs(wishes) do
  if wish.kind == 'P' then
    local told = wish.account.founded
    for gateway, claim in pairs(wish.account.claims) do
      if less(claim.spent, claim.taken) and not counts(claim, gateways[gateway]) then told = false end
    end
    if not told then table.insert(unknown, number_text(at - 1)) end
  end
end
if #unknown > 1 then
  write_touched()
  return unknown
end

local live = 0
for _, gateway in pairs(gateways) do
  if is_live(gateway) then live = live + 1 end
end

local function available(wish)
  local owed = math.max(0, wish.account.whole - now)
  return units_in(wish.rate, math.max(0, MINUTE_MICROS - owed))
end

local granted = true
for _, wish in ipairs(wishes) do
  local parts = live * PARTS[wish.kind]
  if wish.kind == 'R' then
    local left = available(wish)
    wish.wanted = math.max(0, wish.want)
    wish.needed = math.min(math.max(0, wish.least), wish.wanted)
    wish.growth = math.min(wish.wanted, left, math.max(wish.needed, math.floor(left / parts)))
    if wish.needed > left then granted = false end
  else
    local total, elsewhere = ZERO, ZERO
    for gateway, claim in pairs(wish.account.claims) do
      local taken = claim.spent
      if counts(claim, gateways[gateway]) then taken = larger(claim.spent, claim.taken) end
      total = add(total, taken)
      if gateway ~= me then elsewhere = add(elsewhere, beyond(taken, claim.spent)) end
    end
    local own = wish.account.claims[me].taken
    wish.left = beyond(wish.capacity, total)
    wish.elsewhere = elsewhere
    wish.wanted = beyond(wish.want, own)
    wish.needed = smaller(beyond(wish.least, own), wish.wanted)
    wish.growth = smaller(
      smaller(wish.wanted, wish.left), larger(wish.needed, part(wish.left, parts))
    )
    wish.short = less(wish.left, wish.needed)
    if wish.short then granted = false end
  end
end
for _, wish in ipairs(wishes) do
  if not granted then
    wish.growth = wish.kind == 'R' and 0 or ZERO
  elseif wish.kind ~= 'R' then
    local claim = wish.account.claims[me]
    claim.taken = add(claim.taken, wish.growth)
  elseif wish.growth > 0 then
    wish.account.whole = math.max(wish.account.whole, now) + micros_for(wish.rate, wish.growth)
  end
  wish.touched = true
end
write_touched()

-- Marks what ran short while others hold spare; lifts marks that are served or old. The list is in order, the
-- oldest mark first.
local calls = {}
for _, text in ipairs(redis.call('LRANGE', calls_key, 0, -1)) do
  local by, till, needs, name = string.match(text, '^(%S+) (%d+) (%d+) (.*)$')
  if now_millis < tonumber(till) then
    table.insert(calls, {by = by, till = till, needs = amount(needs), name = name})
  end
end
for _, wish in ipairs(wishes) do
  if wish.kind ~= 'R' then
    local left = beyond(wish.left, wish.growth)
    local standing = {}
    for _, call in ipairs(calls) do
      if call.name ~= wish.name or (call.by ~= me and less(left, call.needs)) then
        table.insert(standing, call)
      end
    end
    calls = standing
    local little = less(wish.growth, wish.wanted) and less(left, wish.elsewhere)
    if (wish.short or little) and less(ZERO, wish.elsewhere) then
      if #calls >= MAX_CALLS then table.remove(calls, 1) end
      local needs = wish.short and wish.needed or beyond(wish.wanted, wish.growth)
      table.insert(
        calls,
        {by = me, till = number_text(now_millis + CALL_MILLIS), needs = needs, name = wish.name}
      )
    end
  end
end
local called_in = '0'
redis.call('DEL', calls_key)
for _, call in ipairs(calls) do
  if call.by ~= me then called_in = '1' end
  redis.call(
    'RPUSH', calls_key,
    call.by .. ' ' .. call.till .. ' ' .. amount_text(call.needs) .. ' ' .. call.name
  )
end
if #calls > 0 then redis.call('PEXPIRE', calls_key, CALL_MILLIS * 2) end

local answer = {'STANDINGS', granted and '1' or '0', called_in}
for _, wish in ipairs(wishes) do
  if wish.kind == 'R' then
    local wait = '0'
    if wish.least > wish.per_minute then
      wait = NEVER
    elseif wish.least > 0 then
      local owed = math.max(0, wish.account.whole - now)
      local micros = math.max(0, owed + micros_for(wish.rate, wish.least) - MINUTE_MICROS)
      wait = number_text(micros * 1000)
    end
    table.insert(answer, number_text(wish.growth))
    table.insert(answer, number_text(available(wish)))
    table.insert(answer, '0')
    table.insert(answer, wait)
  else
    table.insert(answer, amount_text(wish.account.claims[me].taken))
    table.insert(answer, amount_text(beyond(wish.left, wish.growth)))
    table.insert(answer, amount_text(wish.elsewhere))
    table.insert(answer, '0')
  end
end
return answer
