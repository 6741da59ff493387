-- What the bank's scripts count with. The same arithmetic as bank_book.rs, line for line; a differential test
-- holds them together, so change both or neither.
--
-- Redis' Lua has doubles only, and budgets count more nano-dollars than a double tells apart. So amounts of
-- pools are pairs {high, low} of the value high * BASE + low, never negative; rates, moments and counts of
-- gateways fit a double exactly.

local BASE = 1000000000
local ZERO = {0, 0}
local MINUTE_MICROS = 60000000
local MOST_UNITS = 9007199254740991
local MOST_STEPS = 100000000

local function amount(text)
  local length = #text
  if length <= 9 then return {0, tonumber(text)} end
  return {tonumber(string.sub(text, 1, length - 9)), tonumber(string.sub(text, length - 8))}
end

local function amount_text(a)
  if a[1] == 0 then return string.format('%d', a[2]) end
  return string.format('%.0f%09d', a[1], a[2])
end

local function less(a, b)
  return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
end

local function smaller(a, b)
  if less(b, a) then return b end
  return a
end

local function larger(a, b)
  if less(a, b) then return b end
  return a
end

local function add(a, b)
  local high, low = a[1] + b[1], a[2] + b[2]
  if low >= BASE then return {high + 1, low - BASE} end
  return {high, low}
end

-- How much more than b a is; zero if it is not.
local function beyond(a, b)
  if not less(b, a) then return ZERO end
  local high, low = a[1] - b[1], a[2] - b[2]
  if low < 0 then return {high - 1, low + BASE} end
  return {high, low}
end

-- By a small whole number, rounded down.
local function part(a, parts)
  local high = math.floor(a[1] / parts)
  local rest = a[1] - high * parts
  return {high, math.floor((rest * BASE + a[2]) / parts)}
end

local function number_text(number)
  return string.format('%.0f', number)
end

-- Rounded up, for whole numbers that are not negative.
local function ceiling(dividend, divisor)
  return math.floor((dividend + divisor - 1) / divisor)
end

-- How fast a rate refills, in steps of units.
local function pace(per_minute)
  local most = math.max(0, math.min(per_minute, MOST_UNITS))
  local step = math.max(1, ceiling(most, MOST_STEPS))
  return {step = step, per_minute = math.floor(most / step)}
end

local function micros_for(rate, units)
  local steps = ceiling(math.max(0, math.min(units, MOST_UNITS)), rate.step)
  steps = math.min(steps, rate.per_minute)
  return ceiling(steps * MINUTE_MICROS, math.max(1, rate.per_minute))
end

local function micros_back(rate, units)
  local steps = math.floor(math.max(0, math.min(units, MOST_UNITS)) / rate.step)
  steps = math.min(steps, rate.per_minute)
  return math.floor(steps * MINUTE_MICROS / math.max(1, rate.per_minute))
end

local function units_in(rate, micros)
  return math.floor(micros * rate.per_minute / MINUTE_MICROS) * rate.step
end

-- The server's time, so that clocks of gateways do not matter.
local moment = redis.call('TIME')
local now = tonumber(moment[1]) * 1000000 + tonumber(moment[2])
local now_millis = math.floor(now / 1000)

-- Which process this is: after a restart or a failover what it knows may be old.
local function server()
  local text = redis.call('INFO', 'server')
  return string.match(text, 'run_id:(%w+)')
end

-- Gateways by id: the number of their last message, the one they joined with, when their claims are void.
local function read_gateways(key)
  local gateways = {}
  local flat = redis.call('HGETALL', key)
  for at = 1, #flat, 2 do
    local number, joined, expires = string.match(flat[at + 1], '^(%d+) (%d+) (%d+)$')
    gateways[flat[at]] = {number = number, joined = joined, expires = tonumber(expires)}
  end
  return gateways
end

local function is_live(gateway)
  return gateway ~= nil and now_millis < gateway.expires
end

local function counts(claim, gateway)
  return is_live(gateway) and gateway.joined == claim.joined
end

-- An account as this epoch knows it.
local function read_account(key, epoch)
  local account = {key = key, founded = false, whole = 0, claims = {}}
  local flat = redis.call('HGETALL', key)
  local known = '0'
  for at = 1, #flat, 2 do
    local field, value = flat[at], flat[at + 1]
    if field == 'epoch' then
      known = value
    elseif field == 'founded' then
      account.founded = value == '1'
    elseif field == 'whole' then
      account.whole = tonumber(value)
    else
      local joined, taken, spent = string.match(value, '^(%d+) (%d+) (%d+)$')
      account.claims[string.sub(field, 3)] =
        {joined = joined, taken = amount(taken), spent = amount(spent)}
    end
  end
  account.exists = #flat > 0
  if known ~= epoch then
    account.founded = false
    account.whole = 0
  end
  return account
end

local function write_account(account, epoch, keep)
  local fields = {
    'epoch', epoch, 'founded', account.founded and '1' or '0', 'whole', number_text(account.whole)
  }
  for gateway, claim in pairs(account.claims) do
    table.insert(fields, 'c:' .. gateway)
    table.insert(
      fields,
      claim.joined .. ' ' .. amount_text(claim.taken) .. ' ' .. amount_text(claim.spent)
    )
  end
  redis.call('HSET', account.key, unpack(fields))
  redis.call('PEXPIRE', account.key, keep)
end

local function claim_of(account, gateway)
  local claim = account.claims[gateway]
  if claim == nil then
    claim = {joined = '0', taken = ZERO, spent = ZERO}
    account.claims[gateway] = claim
  end
  return claim
end
