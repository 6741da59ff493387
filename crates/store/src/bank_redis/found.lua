-- Tells what was spent of accounts: `Bank::found`.
--
-- KEYS  book, gateways, then accounts
-- ARGV  how long keys are kept (ms), then for each account how many gateways spent of it, and for each of them
--       its id and what it spent

local keep = tonumber(ARGV[1])
local epoch = redis.call('HGET', KEYS[1], 'epoch') or '0'
local gateways = read_gateways(KEYS[2])
local next = 2
for at = 3, #KEYS do
  local account = read_account(KEYS[at], epoch)
  account.founded = true
  local many = tonumber(ARGV[next])
  next = next + 1
  for _ = 1, many do
    local claim = claim_of(account, ARGV[next])
    claim.spent = larger(claim.spent, amount(ARGV[next + 1]))
    claim.taken = larger(claim.taken, claim.spent)
    next = next + 2
  end
  for gateway, claim in pairs(account.claims) do
    if not counts(claim, gateways[gateway]) then claim.taken = claim.spent end
  end
  write_account(account, epoch, keep)
end
return 'OK'
