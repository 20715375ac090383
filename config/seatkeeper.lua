-- Seatkeeper as a passdb of Dovecot: the daemon is asked after every right password. See dovecot-lua.conf.
--
-- Beside the policy server of dovecot.conf it has one advantage, that nobody gets in and nobody's password is called
-- wrong while the daemon doesn't answer, and one disadvantage, that the reason of a refusal is in the logs alone.

-- The [[listen.http]] of seatkeeper.toml.
local url = "http://127.0.0.1:8460/v1/check"

local client

function script_init()
  client = dovecot.http.client({ request_absolute_timeout_msecs = 5000, max_attempts = 2 })
  return 0
end

function script_deinit()
end

local function quoted(text)
  return '"' .. tostring(text):gsub('[%c"\\\127]', function(c) return string.format("\\u%04x", c:byte()) end) .. '"'
end

local function ask(req)
  -- `doveadm auth test` and master logins are an administrator's work and take no seat.
  local is_test = req.service == "doveadm" or req:var_expand("%{master_user}") ~= ""
  local fields = {
    '"user": ' .. quoted(req.user),
    '"operation": ' .. (is_test and '"probe"' or '"login"'),
  }
  if req.service and req.service ~= "" then
    table.insert(fields, '"service": ' .. quoted(req.service))
  end
  if req.rip and tostring(req.rip) ~= "" then
    table.insert(fields, '"client_ip": ' .. quoted(req.rip))
  end
  local request = client:request({ url = url, method = "POST" })
  request:add_header("Content-Type", "application/json")
  request:set_payload("{" .. table.concat(fields, ", ") .. "}")
  return request:submit()
end

function auth_passdb_lookup(req)
  local ok, response = pcall(ask, req)
  if not ok then
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "Seatkeeper can't be asked: " .. tostring(response)
  end
  local payload = response:payload() or ""
  if response:status() ~= 200 then
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "Seatkeeper answers " .. response:status() .. " " .. payload
  end
  if payload:find('"allow":true', 1, true) then
    return dovecot.auth.PASSDB_RESULT_OK, { nopassword = "y" }
  end
  local message = payload:match('"message":"([^"]*)"') or payload
  req:log_info("Seatkeeper refuses: " .. message)
  return dovecot.auth.PASSDB_RESULT_USER_DISABLED, message
end
